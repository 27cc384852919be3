//! Datagrams of any bytes: `crate::fuzzed` says who calls this.

use std::sync::LazyLock;

use chitchat::{ChitchatMessage, Deserializable, Serializable};

use super::seal::Seal;

static SEAL: LazyLock<Seal> = LazyLock::new(|| Seal::new("fuzzed", &[[7; 32]]));

/// What comes on the port of gossip: any bytes, and what a node that has the cluster's key may send.
///
/// # Panics
/// If a stranger's datagram opens, or a message that was read is not written as it was read.
pub fn datagrams(bytes: &[u8]) {
    assert!(SEAL.open(bytes).is_err(), "nobody else has the key");
    let Ok((_, mut message)) = Seal::read(bytes) else { return };
    if let Ok(message) = ChitchatMessage::deserialize(&mut message) {
        let written = message.serialize_to_vec();
        let again = ChitchatMessage::deserialize(&mut &written[..]);
        assert_eq!(again.ok(), Some(message));
    }
}
