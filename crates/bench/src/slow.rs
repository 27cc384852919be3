//! Additional clients that hold resources others need: some read values slowly, some send them
//! slowly, some only keep a connection. They are not measured; their effect on the others is.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::http::Node;
use crate::key_chooser::Dice;
use crate::worker::{Job, KeyName};

/// What a slow client reads or sends each second, in bytes.
const DROP_BYTES: usize = 100;
const DROP_EVERY: Duration = Duration::from_secs(1);
/// The receive buffer, in bytes: otherwise the kernel would take a whole value at once.
const RECEIVED_BYTES_MAX: u32 = 4096;
/// The size a slow upload announces, in bytes.
const ANNOUNCED_BYTES: usize = 8 << 20;

/// The behaviour of a slow client.
#[derive(Clone, Copy)]
enum Habit {
    Takes,
    Sends,
    Rests,
}

/// Starts as many as the settings say. They end when the returned value is dropped.
pub(crate) fn start(job: &Arc<Job>) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    let args = &job.args;
    for (count, habit) in [
        (args.slow_readers, Habit::Takes),
        (args.slow_uploads, Habit::Sends),
        (args.idle_connections, Habit::Rests),
    ] {
        for number in 0..usize::from(count) {
            let job = job.clone();
            clients.spawn(async move {
                let node = &job.nodes[number % job.nodes.len()];
                let mut dice = Dice::new(job.sequence_base ^ number as u64);
                loop {
                    // However it ended, reconnect.
                    drop(once(&job, node, habit, &mut dice).await);
                    tokio::time::sleep(DROP_EVERY).await;
                }
            });
        }
    }
    clients
}

/// One connection, until it ends.
async fn once(job: &Job, node: &Node, habit: Habit, dice: &mut Dice) -> std::io::Result<()> {
    let socket = if node.addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_recv_buffer_size(RECEIVED_BYTES_MAX)?;
    let mut stream = socket.connect(node.addr).await?;
    let key = KeyName(job.chooser.key(dice));
    let (bucket, name) = (&job.args.bucket, &node.name);
    let mut head = String::new();
    // Writing to a string cannot fail.
    let _ = match habit {
        Habit::Takes => write!(head, "GET /kv/{bucket}/{key} HTTP/1.1\r\nHost: {name}\r\n\r\n"),
        Habit::Sends => write!(
            head,
            "PUT /kv/{bucket}/slow HTTP/1.1\r\nHost: {name}\r\n\
             Content-Length: {ANNOUNCED_BYTES}\r\n\r\n"
        ),
        Habit::Rests => Ok(()),
    };
    stream.write_all(head.as_bytes()).await?;
    let mut drop_of = [0; DROP_BYTES];
    loop {
        match habit {
            Habit::Sends => stream.write_all(&drop_of).await?,
            Habit::Takes | Habit::Rests => {
                if stream.read(&mut drop_of).await? == 0 {
                    return Ok(());
                }
            }
        }
        tokio::time::sleep(DROP_EVERY).await;
    }
}
