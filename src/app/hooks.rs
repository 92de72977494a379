//! Failpoints of test builds: armed by the environment variable `FAILPOINTS`, in the words of the
//! crate `fail`. `panic(abort)` ends the process as a crash would, where a plain `panic` is caught
//! and supervised.

use fail::FailScenario;

/// What a failpoint's panic says to end the process.
const ABORT: &str = "abort";

/// Arms what the environment asks for. In a release build there are no failpoints, and this does
/// nothing.
pub(super) fn arm() -> Option<FailScenario<'static>> {
    if !fail::has_failpoints() {
        return None;
    }
    soma_runtime::install_panic_hook();
    let supervised = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() == Some(ABORT) {
            std::process::abort();
        }
        supervised(info);
    }));
    Some(FailScenario::setup())
}
