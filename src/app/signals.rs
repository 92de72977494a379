//! SIGTERM and SIGINT, counted: the first drains, the second cuts every deadline short, the third
//! ends the process at once.

use std::io;

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use tokio::sync::watch;

/// How often the process was asked to end.
pub(super) type Asked = watch::Receiver<usize>;

/// Listens from now on, on a thread of its own, so that nothing that hangs can hide a signal.
///
/// # Errors
///
/// The handlers cannot be installed.
pub(super) fn listen() -> io::Result<Asked> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (asked, receiver) = watch::channel(0);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            asked.send_modify(|count| *count += 1);
            match *asked.borrow() {
                1 => tracing::info!(signal, "asked to end: draining"),
                2 => tracing::warn!(signal, "asked again: every deadline is one second now"),
                _ => end_at_once(),
            }
        }
    })?;
    Ok(receiver)
}

#[expect(clippy::disallowed_methods, clippy::exit, reason = "the third signal waits for nothing")]
fn end_at_once() -> ! {
    std::process::exit(i32::from(crate::cli::exit::FAILED))
}
