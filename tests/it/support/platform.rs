//! A platform under test: one process, or replicas behind a balancer.

use std::os::unix::process::ExitStatusExt;

use tokio::sync::watch;

use super::{Api, Backend, Balancer, Server, Setup};

const SIGABRT: i32 = 6;

/// Every process of a platform, some of which may be dead at the moment.
#[derive(Debug)]
pub(crate) struct Platform {
    // Dropped first: what they work on goes with the setup.
    replicas: Vec<Option<Server>>,
    balancer: Option<Balancer>,
    clients: watch::Sender<Option<Api>>,
    /// How the next processes are started.
    pub(crate) setup: Setup,
}

impl Platform {
    /// Builds a platform of which nothing runs yet.
    pub(crate) async fn of(setup: Setup) -> Self {
        let count = setup.replicas();
        let balancer = if count > 1 { Some(Balancer::start(count).await) } else { None };
        let behind =
            |balancer: &Balancer| Api::behind_balancer(&balancer.url()).with_token(setup.token());
        let (clients, _) = watch::channel(balancer.as_ref().map(behind));
        let replicas = (0..count).map(|_| None).collect();
        Self { replicas, balancer, clients, setup }
    }

    /// Starts whatever does not run.
    pub(crate) async fn restore(&mut self) {
        for replica in 0..self.replicas.len() {
            if self.replicas[replica].is_none() {
                self.start_replica(replica).await.unwrap();
            }
        }
    }

    /// Starts a process and waits until clients find it, or it has ended.
    pub(crate) async fn start_replica(&mut self, replica: usize) -> Result<(), String> {
        let server = self.setup.start_replica(replica).await?;
        match &self.balancer {
            Some(balancer) => {
                let api = server.api.base().trim_start_matches("http://").parse().unwrap();
                balancer.put(replica, Backend { api, admin: server.admin.clone() });
                balancer.uses(replica).await;
            }
            None => drop(self.clients.send_replace(Some(server.api.clone()))),
        }
        self.replicas[replica] = Some(server);
        Ok(())
    }

    /// Returns how many processes make the platform.
    pub(crate) fn count(&self) -> usize {
        self.replicas.len()
    }

    /// Returns a running process.
    pub(crate) fn replica(&mut self, replica: usize) -> &mut Server {
        self.replicas[replica].as_mut().expect("the replica runs")
    }

    /// Returns the processes that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Server> {
        self.replicas.iter().flatten()
    }

    /// Kills a process with SIGKILL and starts it again with this failpoint armed.
    pub(crate) async fn arm(&mut self, failpoint: &str) {
        self.kill(0);
        self.setup.arm(Some(failpoint));
        let started = self.start_replica(0).await;
        self.setup.arm(None);
        started.unwrap();
    }

    /// Waits until the first process has aborted, and starts again whatever does not run.
    pub(crate) async fn dies_and_is_restored(&mut self, failpoint: &str) {
        let status = self.ended(0).await;
        assert_eq!(status.signal(), Some(SIGABRT), "{failpoint}: {status}");
        self.setup.arm(None);
        self.restore().await;
    }

    /// Kills a process with SIGKILL. Its clients find out by themselves.
    pub(crate) fn kill(&mut self, replica: usize) {
        if let Some(server) = self.replicas[replica].take() {
            server.kill();
        }
        self.lost();
    }

    /// Waits until a process has ended by itself, and returns how.
    pub(crate) async fn ended(&mut self, replica: usize) -> std::process::ExitStatus {
        let status = self.replica(replica).ended().await;
        self.replicas[replica] = None;
        self.lost();
        status
    }

    /// Where there is no balancer nobody can be reached now.
    fn lost(&self) {
        if self.balancer.is_none() {
            self.clients.send_replace(None);
        }
    }

    /// Asks every process to end, waits until all have, and returns their exit codes.
    pub(crate) async fn drain(&mut self) -> Vec<Option<i32>> {
        self.signal("TERM");
        let mut codes = Vec::new();
        for replica in 0..self.replicas.len() {
            codes.push(self.ended(replica).await.code());
        }
        codes
    }

    /// Sends every process a signal such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        self.running().for_each(|server| server.signal(name));
    }

    /// Returns where clients find the platform; none while nobody can be reached.
    pub(crate) fn clients(&self) -> watch::Receiver<Option<Api>> {
        self.clients.subscribe()
    }

    /// Returns a client of the platform, which is up.
    pub(crate) fn api(&self) -> Api {
        self.clients.borrow().clone().expect("the platform is up")
    }
}
