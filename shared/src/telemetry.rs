//! Logs: one line an event on standard error, JSON for machines, plain text on a terminal.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::{LogArgs, LogFormat};

/// Starts logging for this process. Errors name a `LOG_LEVEL` that cannot be understood.
pub fn start(args: &LogArgs) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(&args.log_level)?;
    let json = match args.log_format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    // A log that cannot be written, on a full disk for example, must not end the process.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(true).init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
    log_panics();
    Ok(())
}

/// A panic becomes a log line like any other, with its place but without its message: a message may quote what was
/// being worked on.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panicked; this is a bug");
    }));
}

/// The last words of a process that cannot start or go on: a line of log, or plain text where logging has not begun.
pub fn report_fatal(program: &str, error: &(dyn std::error::Error + 'static)) {
    if tracing::dispatcher::has_been_set() {
        tracing::error!("{program} ends: {}", chain(error));
    } else {
        eprintln!("{program}: {}", chain(error));
    }
}

/// The chain of an error's causes in one line, for the place where it is handled.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        // Some libraries repeat their source.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}
