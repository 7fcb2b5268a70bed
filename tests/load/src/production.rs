//! What every scenario starts from.

use countersign_tests::stack::{Stack, StackBuilder};

/// A stack as production has it: Postgres waits for the disk, and polls are as by default, which in tests they are not.
pub(crate) fn stack() -> StackBuilder {
    Stack::builder()
        .durable()
        .postgres("shared_buffers", "1GB")
        .postgres("max_wal_size", "4GB")
        .setting("POLL_INTERVAL", "10s")
        .setting("POLL_TIMEOUT", "5m")
}
