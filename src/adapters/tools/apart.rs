//! Reads PDFs in a process of their own.
//!
//! A few hundred bytes of a PDF can say that they stand for gigabytes, and a parser that runs in
//! circles cannot be ended from outside while it is a thread. The process that reads one may use only
//! so much memory and time, and takes nothing with it when it dies.

use std::{
    io::{self, Read, Write},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use rustix::process::{Resource, Rlimit, setrlimit};
use soma_tools::ToolError;

use super::{contained::STACK_BYTES, extract::pdf_text};

/// The command of this executable that reads a PDF from its input and writes the text.
pub const READ_PDF: &str = "read-pdf";

/// The most address space that reading one may take, stack and code included: several times the
/// largest document, and two such beside the server fit into a container of 1 GiB.
const MEMORY_BYTES: u64 = 512 << 20;
/// The most time of a processor that reading one may take.
const CPU_SECONDS: u64 = 60;
/// The most bytes of text that are taken from it.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Has the executable `program` read a PDF. Blocks.
///
/// # Errors
///
/// The document is damaged or locked, or reading it takes too much.
pub(super) fn text_of_pdf(program: &Path, bytes: &[u8]) -> Result<String, ToolError> {
    let no_process =
        |error: io::Error| ToolError::Failed(format!("no process for the PDF parser: {error}"));
    let mut reader = Command::new(program)
        .arg(READ_PDF)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(no_process)?;
    if let Some(mut input) = reader.stdin.take() {
        // It reads everything before it writes. One that died is told by how it ended.
        input.write_all(bytes).ok();
    }
    let mut said = Vec::new();
    if let Some(output) = reader.stdout.take() {
        output.take(MAX_TEXT_BYTES).read_to_end(&mut said).map_err(no_process)?;
    }
    let is_full = said.len() as u64 == MAX_TEXT_BYTES;
    let status = reader.wait().map_err(no_process)?;
    let said = String::from_utf8_lossy(&said).into_owned();
    match status.code() {
        Some(0) => Ok(said),
        _ if is_full => Ok(said),
        Some(1) => Err(ToolError::Failed(said)),
        _ => Err(ToolError::Failed(
            "the PDF parser broke down over this document, or it took too much memory or time"
                .to_owned(),
        )),
    }
}

/// Is the command [`READ_PDF`]: 0 and the text, or 1 and what is wrong with the document.
pub fn read_pdf() -> ExitCode {
    let read = confine().and_then(|()| {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes)?;
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || pdf_text(&bytes))
    });
    let (text, code) = match read.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(text))) => (text, 0),
        Ok(Ok(Err(error))) => (error.to_string(), 1),
        Ok(Err(_panic)) => return ExitCode::from(2),
        Err(error) => (error.to_string(), 1),
    };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::from(code),
        Err(_nobody_reads) => ExitCode::from(2),
    }
}

fn confine() -> io::Result<()> {
    for (resource, most) in [(Resource::As, MEMORY_BYTES), (Resource::Cpu, CPU_SECONDS)] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}
