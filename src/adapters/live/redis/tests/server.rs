//! A server of a test's own, to be stopped, stalled and flushed.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// A Redis that keeps nothing; it ends with this.
#[derive(Debug)]
pub(super) struct Server {
    port: u16,
    folder: TempDir,
    child: Child,
}

impl Server {
    /// Starts one at a free port.
    pub(super) fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let child = launch(port, &folder);
        Self { port, folder, child }
    }

    /// Where it is.
    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, at the same place, with nothing in it.
    pub(super) fn start_again(&mut self) {
        self.child = launch(self.port, &self.folder);
    }

    /// Sends a signal: `STOP` or `CONT`.
    pub(super) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn launch(port: u16, folder: &TempDir) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--dir"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("there is no `redis-server`: run `make up`, which installs it")
}
