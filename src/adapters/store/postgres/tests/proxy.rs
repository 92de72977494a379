//! A server that may be away: a proxy before the tests' server.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::watch,
    task::JoinHandle,
};

/// Passes connections on while it is up; when it goes, all of them break.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    server: String,
    up: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts before the server of this address (`host:port`).
    pub(super) async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (up, _) = watch::channel(true);
        let mut proxy = Self { address, server: server.to_owned(), up, task: None };
        proxy.serve(listener);
        proxy
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    fn serve(&mut self, listener: TcpListener) {
        let (server, up) = (self.server.clone(), self.up.clone());
        self.task = Some(Handle::current().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, mut up) = (server.clone(), up.subscribe());
                Handle::current().spawn(async move {
                    let passing = async move {
                        let (mut client, mut server) =
                            (client, TcpStream::connect(server).await.unwrap());
                        copy_bidirectional(&mut client, &mut server).await.ok();
                    };
                    tokio::select! {
                        () = passing => {}
                        _ = up.wait_for(|up| !*up) => {}
                    }
                });
            }
        }));
    }

    /// Goes: connections break, new ones are refused.
    pub(super) async fn go(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            task.await.ok();
        }
        self.up.send_replace(false);
    }

    /// Comes back at the same address.
    pub(super) async fn come_back(&mut self) {
        self.up.send_replace(true);
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }
}
