//! The ceiling: a bare axum server that answers every GET with one value, accepts any PUT and
//! DELETE, and does nothing else. Its throughput on this machine, in the same run and under the
//! same generator, is what HTTP alone allows; the cluster's figures are compared with it.

use std::io::Write;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::routing::{get, put};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::value::ValueGen;

/// The largest body of a PUT: as large as the largest value.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Serve the ceiling: a bare HTTP server to compare the cluster with.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen; port 0 picks a free one. The address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) addr: String,
    /// Bytes of the answer to GET.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(24..=8_388_608))]
    pub(crate) value_bytes: u32,
}

/// The server, which stops when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    addr: SocketAddr,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Starts to listen.
    ///
    /// # Errors
    /// A sentence that names the address.
    pub(crate) async fn start(addr: &str, value_bytes: usize) -> Result<Self, String> {
        let named = |error: std::io::Error| format!("cannot listen on {addr}: {error}");
        let listener = TcpListener::bind(addr).await.map_err(named)?;
        let addr = listener.local_addr().map_err(named)?;
        let listener = listener.tap_io(|stream| {
            // Without it an answer may wait for the TCP acknowledgement of the previous one.
            let _ = stream.set_nodelay(true);
        });
        let task = tokio::spawn(async move { axum::serve(listener, router(value_bytes)).await });
        Ok(Server { addr, task })
    }

    /// The address it listens on.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves until the process is killed, and prints its address on stdout.
///
/// # Errors
/// When it cannot listen.
pub(crate) async fn serve(args: Args) -> Result<(), String> {
    let mut server = Server::start(&args.addr, args.value_bytes as usize).await?;
    writeln!(std::io::stdout(), "{}", server.addr()).map_err(|error| error.to_string())?;
    match (&mut server.task).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn router(value_bytes: usize) -> Router {
    let mut value = Vec::new();
    ValueGen::new(value_bytes).generate(u64::MAX, 0, value_bytes, &mut value);
    let value = Bytes::from(value);
    let answer = move || {
        let value = value.clone();
        std::future::ready(([(header::CONTENT_TYPE, "application/octet-stream")], value))
    };
    let take = |_body: Bytes| std::future::ready(StatusCode::NO_CONTENT);
    let forget = || std::future::ready(StatusCode::NO_CONTENT);
    let bucket = || std::future::ready(r#"{"conflicts":"lww"}"#);
    Router::new()
        .route("/kv/{bucket}/{*key}", get(answer).put(take).delete(forget))
        .route("/buckets/{bucket}", put(take).get(bucket))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}
