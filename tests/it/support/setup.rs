//! How a platform is started.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{Platform, Server};

/// The settings of a platform. What it keeps stays the same over restarts.
#[derive(Debug)]
pub(crate) struct Setup {
    folder: TempDir,
    settings: BTreeMap<String, String>,
    failpoints: Option<String>,
    replicas: usize,
    token: Option<String>,
    #[cfg(feature = "cluster-platform")]
    world: Option<super::cluster::World>,
}

impl Setup {
    /// The embedded engines in a new folder, on free ports, with an offline model that does not
    /// wait between words.
    pub(crate) fn new() -> Self {
        let setup = Self {
            folder: tempfile::tempdir().unwrap(),
            settings: BTreeMap::new(),
            failpoints: None,
            replicas: 1,
            token: None,
            #[cfg(feature = "cluster-platform")]
            world: None,
        };
        let (data, files) = (setup.data_dir(), setup.files());
        setup
            .set("SA01_DATA_DIR", data.display().to_string())
            .set("SA01_GATEWAY_BIND", "127.0.0.1:0")
            .set("SA01_ADMIN_BIND", "127.0.0.1:0")
            .set("SA01_MODEL_OFFLINE_WORD_DELAY", "0s")
            .set("SA01_LOG_FORMAT", "json")
            .set("SA01_TOOLS_WORK_DIR", files.display().to_string())
    }

    /// Two replicas that share the servers of a world.
    #[cfg(feature = "cluster-platform")]
    pub(super) fn of_world(world: super::cluster::World) -> Self {
        let settings = world.settings();
        let token = Some(super::cluster::World::token());
        let setup = Self { replicas: 2, token, world: Some(world), ..Self::new() };
        settings.into_iter().fold(setup, |setup, (name, value)| setup.set(name, value))
    }

    /// Returns the servers below, if there are any.
    #[cfg(feature = "cluster-platform")]
    pub(crate) const fn world(&self) -> Option<&super::cluster::World> {
        self.world.as_ref()
    }

    /// Sets a configuration key for later starts.
    pub(crate) fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.put(name, value);
        self
    }

    /// Sets a configuration key for later starts.
    pub(crate) fn put(&mut self, name: &str, value: impl Into<String>) {
        self.settings.insert(name.to_owned(), value.into());
    }

    /// Answers with a scripted model.
    pub(crate) fn with_model(self, endpoint: &super::endpoint::Endpoint) -> Self {
        self.set("SA01_MODEL_BASE_URL", format!("{}/v1", endpoint.url()))
            .set("SA01_MODEL_NAME", super::endpoint::MODEL)
            .set("SA01_MODEL_MAX_RETRIES", "0")
    }

    /// Arms failpoints for later starts, in the crate `fail`'s words; `panic(abort)` aborts the
    /// process. Of several replicas only the first is armed.
    pub(crate) fn arm(&mut self, failpoints: Option<&str>) {
        self.failpoints = failpoints.map(str::to_owned);
    }

    /// Where the server keeps its files.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data_dir_of(0)
    }

    fn data_dir_of(&self, replica: usize) -> PathBuf {
        let name = if replica == 0 { "data".to_owned() } else { format!("data-{replica}") };
        self.folder.path().join(name)
    }

    /// Where the tools of every replica work.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// Returns what a file of the tools says, if there is one.
    pub(crate) fn file(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.files().join("public").join(name)).ok()
    }

    /// A folder for other files of the test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns how many processes make the platform.
    pub(super) const fn replicas(&self) -> usize {
        self.replicas
    }

    /// Returns what clients authenticate with.
    pub(crate) fn token(&self) -> Option<String> {
        self.token.clone()
    }

    /// Returns a command of the executable in this setup.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(0, arguments)
    }

    fn command_of(&self, replica: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_somaagent"));
        command.args(arguments).current_dir(self.folder.path()).env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.envs(&self.settings).env("RUST_BACKTRACE", "0");
        if replica > 0 {
            command.env("SA01_DATA_DIR", self.data_dir_of(replica));
        }
        if let Some(failpoints) = self.failpoints.as_ref().filter(|_| replica == 0) {
            command.env("FAILPOINTS", failpoints);
        }
        command
    }

    /// Starts one process, the first, and waits until it listens, or has ended.
    pub(crate) async fn start(&self) -> Result<Server, String> {
        self.start_replica(0).await
    }

    /// Starts one process and waits until it listens, or has ended.
    pub(super) async fn start_replica(&self, replica: usize) -> Result<Server, String> {
        Server::start(self.command_of(replica, &[]), self.token()).await
    }

    /// Starts every process of the platform.
    pub(crate) async fn platform(self) -> Platform {
        let mut platform = Platform::of(self).await;
        platform.restore().await;
        platform
    }
}
