//! `countersign-dns`: what it answers, and that domains whose challenges are delegated to it need nobody.

mod delegated;
