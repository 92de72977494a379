//! Standard output of the commands. A reader that has gone (`| head`) wants no more of it, which is
//! no failure, so that nothing here panics as `println!` would.

use std::io::Write;

/// Writes a line.
pub(crate) fn line(text: &str) {
    let _gone = writeln!(std::io::stdout(), "{text}");
}

/// Writes text as it stands, at once.
pub(crate) fn text(text: &str) {
    let mut out = std::io::stdout();
    let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
