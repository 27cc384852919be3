//! Slow links: a proxy in front of each node's peer port that limits the bytes per second each way,
//! and delays them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// The shape of a link.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) bytes_per_s: u64,
    pub(crate) delay: Duration,
}

/// 100 Mbit/s, with 2 ms each way.
pub(crate) const FAST_ETHERNET: Shape =
    Shape { bytes_per_s: 12_500_000, delay: Duration::from_millis(2) };

/// Bytes read from one end at once, and pieces queued between both ends at most.
const PIECE_BYTES: usize = 16 << 10;
const QUEUED_PIECES: usize = 32;

/// One direction of a wire, shared by all connections.
#[derive(Clone)]
struct Wire {
    shape: Shape,
    free_at: Arc<Mutex<Instant>>,
}

impl Wire {
    fn new(shape: Shape) -> Self {
        Self { shape, free_at: Arc::new(Mutex::new(Instant::now())) }
    }

    /// When this many more bytes will have arrived at the other end.
    fn arrival(&self, bytes: usize) -> Instant {
        let mut free_at = self.free_at.lock().unwrap();
        let takes = Duration::from_micros(bytes as u64 * 1_000_000 / self.shape.bytes_per_s);
        *free_at = Instant::now().max(*free_at) + takes;
        *free_at + self.shape.delay
    }
}

/// Listens on a separate port for a node's peers. Returns its address.
pub(crate) fn before(node: SocketAddr, shape: Shape) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        let (there, back) = (Wire::new(shape), Wire::new(shape));
        while let Ok((near, _)) = listener.accept().await {
            let (there, back) = (there.clone(), back.clone());
            tokio::spawn(async move {
                let Ok(far) = TcpStream::connect(node).await else { return };
                drop((near.set_nodelay(true), far.set_nodelay(true)));
                let ((near_in, near_out), (far_in, far_out)) =
                    (near.into_split(), far.into_split());
                tokio::join!(pump(near_in, far_out, there), pump(far_in, near_out, back));
            });
        }
    });
    addr
}

async fn pump(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    mut to: impl AsyncWrite + Unpin,
    wire: Wire,
) {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUED_PIECES);
    let reading = async move {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let Ok(read @ 1..) = from.read(&mut piece).await else { return };
            piece.truncate(read);
            if queue.send((wire.arrival(read), piece)).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        while let Some((at, piece)) = queued.recv().await {
            sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        drop(to.shutdown().await);
    };
    tokio::join!(reading, writing);
}
