//! The executable as a child process.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;
use tokio::sync::watch;

use super::{Api, in_time};

/// How much of the log is shown when a test fails.
const SHOWN_LINES: usize = 40;

/// A running server. Dropping it kills it with SIGKILL.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
    /// The addresses of the API and the admin listener, once known.
    listening: watch::Receiver<Listening>,
    /// The API.
    pub(crate) api: Api,
    /// The admin listener's base URL.
    pub(crate) admin: String,
}

#[derive(Debug, Default, Clone)]
struct Listening {
    api: Option<String>,
    admin: Option<String>,
    ended: bool,
}

impl Server {
    /// Starts the process and waits until it listens, or has ended.
    pub(super) async fn start(mut command: Command, token: Option<String>) -> Result<Self, String> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let (told, listening) = watch::channel(Listening::default());
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let kept = Arc::clone(&log);
        std::thread::spawn(move || read_log(lines, &kept, &told));
        let mut found = listening.clone();
        let both = found.wait_for(|l| l.ended || (l.api.is_some() && l.admin.is_some()));
        let addresses = in_time("it listens", both).await.unwrap().clone();
        let (Some(api), Some(admin)) = (addresses.api, addresses.admin) else {
            let status = child.wait().unwrap();
            let log = log.lock().unwrap();
            return Err(format!("ended with {status}: {}", text(&log)));
        };
        let api = Api::new(&format!("http://{api}")).with_token(token);
        Ok(Self { child, log, listening, api, admin: format!("http://{admin}") })
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process without a chance to tidy up, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut listening = self.listening.clone();
        let ended = listening.wait_for(|l| l.ended);
        in_time("the server ends", ended).await.unwrap();
        self.child.wait().unwrap()
    }

    /// Returns whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Tells what a failed test leaves behind: whether the process lives, and what it said last.
    #[expect(clippy::print_stdout, reason = "shown where the test has failed")]
    fn tell(&mut self) {
        let ended = self.child.try_wait();
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &log[log.len().saturating_sub(SHOWN_LINES)..];
        println!("process {}: {ended:?}; its last lines:\n{}", self.child.id(), text(last));
    }

    /// Returns the last line of the log.
    pub(crate) fn last_line(&self) -> Value {
        self.log.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// Returns the log lines that contain this text.
    pub(crate) fn logged(&self, part: &str) -> Vec<Value> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| line.to_string().contains(part)).cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn read_log(
    lines: impl Iterator<Item = std::io::Result<String>>,
    log: &Mutex<Vec<Value>>,
    told: &watch::Sender<Listening>,
) {
    for line in lines.map_while(Result::ok) {
        let entry = serde_json::from_str(&line).unwrap_or(Value::String(line));
        let address = |name| entry.get(name).and_then(Value::as_str).map(str::to_owned);
        if let Some(api) = address("api_address") {
            told.send_modify(|listening| listening.api = Some(api));
        }
        if let Some(admin) = address("admin_address") {
            told.send_modify(|listening| listening.admin = Some(admin));
        }
        log.lock().unwrap().push(entry);
    }
    told.send_modify(|listening| listening.ended = true);
}

fn text(log: &[Value]) -> String {
    log.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
