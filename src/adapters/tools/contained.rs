//! Runs parsers on foreign bytes where they can do little harm.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
};

use soma_tools::ToolError;
use tokio::sync::{Semaphore, oneshot};

/// Parsers descend into what they read; a deep document needs a deep stack. Only what is used of it
/// is ever backed by memory.
pub(super) const STACK_BYTES: usize = 128 * 1024 * 1024;

/// A bounded number of threads for parsers, each made for one document.
///
/// A thread cannot be ended from outside. One that hangs keeps its permit, so that a hostile
/// document costs at most this many threads, and later ones are told that all are taken.
#[derive(Debug, Clone)]
pub struct Parsers {
    permits: Arc<Semaphore>,
    program: Option<PathBuf>,
}

impl Parsers {
    /// Allows this many at once.
    pub fn new(at_once: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(at_once)), program: None }
    }

    /// Has PDFs read by processes of this executable, which is ours.
    #[must_use]
    pub fn apart(self, program: PathBuf) -> Self {
        Self { program: Some(program), ..self }
    }

    /// Returns the executable that reads PDFs; this process does if there is none.
    pub(super) fn program(&self) -> Option<PathBuf> {
        self.program.clone()
    }

    /// Runs a parser; its panic is an error of this call.
    ///
    /// # Errors
    ///
    /// The parser's own, a panic of it, or no thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        parse: impl FnOnce() -> Result<T, ToolError> + Send + 'static,
    ) -> Result<T, ToolError> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|error| ToolError::Unavailable(error.to_string()))?;
        let (sender, receiver) = oneshot::channel();
        let spawned = std::thread::Builder::new()
            .name(format!("parse-{what}"))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let parsed = catch_unwind(AssertUnwindSafe(parse));
                drop(permit);
                // Nobody waits any more if the call ran out of time.
                drop(sender.send(parsed));
            });
        if let Err(error) = spawned {
            return Err(ToolError::Failed(format!("no thread for the {what} parser: {error}")));
        }
        match receiver.await {
            Ok(Ok(parsed)) => parsed,
            Ok(Err(_)) | Err(_) => {
                Err(ToolError::Failed(format!("the {what} parser broke down over this document")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_a_parser_is_an_error_and_frees_its_thread() {
        let parsers = Parsers::new(1);
        for _ in 0..3 {
            let outcome: Result<(), _> = parsers.run("pdf", || panic!("bad xref")).await;
            let words = outcome.unwrap_err().to_string();
            assert_eq!(words, "the pdf parser broke down over this document");
        }
        assert_eq!(parsers.run("pdf", || Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn deep_recursion_has_room() {
        fn depth(left: u32) -> u32 {
            let room = std::hint::black_box([left; 64]);
            if left == 0 { room[0] } else { 1 + depth(left - 1) }
        }
        assert_eq!(Parsers::new(1).run("deep", || Ok(depth(50_000))).await, Ok(50_000));
    }
}
