//! Clients that read and send very slowly, and ones that only keep a connection: they must not
//! affect other clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::Cluster;

/// How many of each kind there are.
const EACH: usize = 8;
const IDLE: usize = 60;
/// How long one of them stays connected.
const STAY: Duration = Duration::from_secs(8);
const DROP_BYTES: usize = 100;
const DROP_EVERY: Duration = Duration::from_millis(500);
const VALUE_BYTES: usize = 1 << 20;

/// Starts them. They reconnect when a node stops or disconnects them, until the result is dropped.
pub(crate) fn start(cluster: &Arc<Cluster>) -> JoinSet<()> {
    let mut all = JoinSet::new();
    for number in 0..2 * EACH + IDLE {
        let cluster = cluster.clone();
        all.spawn(async move {
            loop {
                let node = cluster.some(rand::rng().random_range(0..1000));
                let to = cluster.client_addr(node);
                let coming = async {
                    match number {
                        0..EACH => reads(to).await,
                        number if number < 2 * EACH => writes(to).await,
                        _ => keeps(to).await,
                    }
                };
                drop(tokio::time::timeout(STAY, coming).await);
                tokio::time::sleep(DROP_EVERY).await;
            }
        });
    }
    all
}

/// Stores a large value, unless it exists, and reads it very slowly.
async fn reads(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    let head = format!(
        "PUT /kv/slow/k HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\nContent-Length: {VALUE_BYTES}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&vec![b'x'; VALUE_BYTES]).await?;
    stream.write_all(b"GET /kv/slow/k HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut drop = [0; DROP_BYTES];
    while stream.read(&mut drop).await? > 0 {
        tokio::time::sleep(DROP_EVERY).await;
    }
    Ok(())
}

/// Announces a large value and sends it very slowly: nothing of it is ever stored.
async fn writes(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    let head =
        format!("PUT /kv/slow/never HTTP/1.1\r\nHost: x\r\nContent-Length: {VALUE_BYTES}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    loop {
        stream.write_all(&[b'x'; DROP_BYTES]).await?;
        tokio::time::sleep(DROP_EVERY).await;
    }
}

/// Keeps a connection.
async fn keeps(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.read_u8().await.map(drop)
}
