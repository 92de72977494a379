//! A server that may be away, or go in the middle: a proxy before the tests' server.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
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
    deaf: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts before the server of this address (`host:port`).
    pub(super) async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (up, _) = watch::channel(true);
        let mut proxy =
            Self { address, server: server.to_owned(), up, deaf: Arc::default(), task: None };
        proxy.serve(listener);
        proxy
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    fn serve(&mut self, listener: TcpListener) {
        let (server, up, deaf) = (self.server.clone(), self.up.clone(), Arc::clone(&self.deaf));
        self.task = Some(Handle::current().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, mut up, deaf) = (server.clone(), up.subscribe(), Arc::clone(&deaf));
                Handle::current().spawn(async move {
                    let passing = async move {
                        let server = TcpStream::connect(server).await.unwrap();
                        pass(client, server, &deaf).await.ok();
                    };
                    tokio::select! {
                        () = passing => {}
                        _ = up.wait_for(|up| !*up) => {}
                    }
                });
            }
        }));
    }

    /// The next COMMIT reaches the server, and is carried out, but its answer is lost with the
    /// connection.
    pub(super) fn lose_the_answer_to_the_next_commit(&self) {
        self.deaf.store(true, Ordering::SeqCst);
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

/// Passes bytes on in both directions until one side closes, or an answer is to be lost.
async fn pass(client: TcpStream, server: TcpStream, deaf: &AtomicBool) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = Handle::current().spawn(async move {
        copy(&mut from_server, &mut to_client).await.ok();
        (from_server, to_client)
    });
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = from_client.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        let sent = &bytes[..read];
        let commits = sent.windows(6).any(|word| word == b"COMMIT");
        if commits && deaf.swap(false, Ordering::SeqCst) {
            // Nobody listens to the server any more, but it has all the time that it needs.
            answers.abort();
            answers.await.ok();
            to_server.write_all(sent).await?;
            to_server.shutdown().await?;
            return Ok(());
        }
        to_server.write_all(sent).await?;
    }
}
