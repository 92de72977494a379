//! The executable as a child process.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::Api;

/// Longer than anything takes on a busy machine; a test that waits this long has found a hang.
const HANG: Duration = Duration::from_mins(2);

/// How a server is started. The data directory stays the same over restarts.
#[derive(Debug)]
pub(crate) struct Setup {
    folder: TempDir,
    settings: BTreeMap<String, String>,
    failpoints: Option<String>,
}

impl Setup {
    /// The embedded engines in a new folder, on free ports, with an offline model that does not
    /// wait between words.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = BTreeMap::new();
        for (name, value) in [
            ("SA01_GATEWAY_BIND", "127.0.0.1:0"),
            ("SA01_ADMIN_BIND", "127.0.0.1:0"),
            ("SA01_MODEL_OFFLINE_WORD_DELAY", "0s"),
            ("SA01_LOG_FORMAT", "json"),
        ] {
            settings.insert(name.to_owned(), value.to_owned());
        }
        let data = folder.path().join("data").display().to_string();
        settings.insert("SA01_DATA_DIR".to_owned(), data);
        Self { folder, settings, failpoints: None }
    }

    /// Sets a configuration key for later starts.
    pub(crate) fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// Arms failpoints for later starts, in the crate `fail`'s words; `panic(abort)` aborts the
    /// process.
    pub(crate) fn arm(&mut self, failpoints: Option<&str>) {
        self.failpoints = failpoints.map(str::to_owned);
    }

    /// Where the server keeps its files.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Lets the tool `tally` of test builds run, which the shipped policy does not know.
    pub(crate) fn with_tally(self) -> Self {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join("policy");
        let own = self.folder.path().join("policy");
        std::fs::create_dir(&own).unwrap();
        std::fs::copy(shipped.join("soma.rego"), own.join("soma.rego")).unwrap();
        let data = std::fs::read_to_string(shipped.join("data.json")).unwrap();
        let mut data: Value = serde_json::from_str(&data).unwrap();
        data["tools"]["known"].as_array_mut().unwrap().push("tally".into());
        std::fs::write(own.join("data.json"), data.to_string()).unwrap();
        self.set("SA01_POLICY_DIR", own.display().to_string())
    }

    /// Returns the effect ids of all runs of `tally`, in their order.
    pub(crate) fn tallied(&self) -> Vec<String> {
        let file = self.data_dir().join("files").join("tally");
        let lines = std::fs::read_to_string(file).unwrap_or_default();
        lines.lines().map(str::to_owned).collect()
    }

    /// A folder for other files of the test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns a command of the executable in this setup.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_somaagent"));
        command.args(arguments).current_dir(self.folder.path()).env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.envs(&self.settings).env("RUST_BACKTRACE", "0");
        if let Some(failpoints) = &self.failpoints {
            command.env("FAILPOINTS", failpoints);
        }
        command
    }

    /// Starts the server and waits until it listens, or has ended.
    pub(crate) async fn start(&self) -> Result<Server, String> {
        Server::start(self.command(&[])).await
    }
}

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
    async fn start(mut command: Command) -> Result<Self, String> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let (told, listening) = watch::channel(Listening::default());
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let kept = Arc::clone(&log);
        std::thread::spawn(move || read_log(lines, &kept, &told));
        let mut found = listening.clone();
        let both = found.wait_for(|l| l.ended || (l.api.is_some() && l.admin.is_some()));
        let addresses = tokio::time::timeout(HANG, both).await.unwrap().unwrap().clone();
        let (Some(api), Some(admin)) = (addresses.api, addresses.admin) else {
            let status = child.wait().unwrap();
            let log = log.lock().unwrap();
            return Err(format!("ended with {status}: {}", text(&log)));
        };
        let api = Api::new(&format!("http://{api}"));
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
        tokio::time::timeout(HANG, ended).await.expect("the server hangs").unwrap();
        self.child.wait().unwrap()
    }

    /// Returns whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
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

/// Waits for something that nobody tells.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}
