//! How a node that asks to join, and the member that it asks, prove the cluster's key to each other.
//!
//! The member challenges: with a number that only it makes, and takes for [`CHALLENGE_MS`] milliseconds. The
//! node answers for it, for a number of its own, and for the request; the member for all of that and its
//! answer. The member keeps nothing between the two requests. What a listener plays back meanwhile is the
//! same request, whose answer it has seen already; at another member, or later, it is worth nothing.

use quorate_protocol::name::NodeId;
use quorate_protocol::proof::{Nonce, PROOF_BYTES, PeerKeys, Proof, Role};
use quorate_protocol::time::Uptime;

use crate::host::Chance;
use crate::peer::handshake;

/// The length of a challenge, in bytes.
pub const CHALLENGE_BYTES: usize = TIME_BYTES + PROOF_BYTES;
/// How long a challenge can be answered, in milliseconds.
pub const CHALLENGE_MS: u64 = 10_000;
const TIME_BYTES: usize = 8;

/// What a member wants proved.
pub type Challenge = [u8; CHALLENGE_BYTES];

/// Makes challenges, and knows them again.
pub struct Challenges {
    /// Of this start alone: another one does not know its challenges.
    mark: Nonce,
    me: NodeId,
}

impl Challenges {
    /// Those of a start of this node.
    pub fn new(me: NodeId, chance: &dyn Chance) -> Self {
        Self { mark: handshake::nonce(chance), me }
    }

    /// A challenge that can be answered for a while.
    pub fn issue(&self, keys: &PeerKeys, now: Uptime) -> Challenge {
        let time = now.0.to_le_bytes();
        let mut challenge = [0; CHALLENGE_BYTES];
        challenge[..TIME_BYTES].copy_from_slice(&time);
        let proof = keys.prove(Role::Challenger, &[self.me.as_str().as_bytes(), &self.mark, &time]);
        challenge[TIME_BYTES..].copy_from_slice(&proof);
        challenge
    }

    /// Whether this is one of them, and can still be answered.
    pub fn knows(&self, keys: &PeerKeys, challenge: &Challenge, now: Uptime) -> bool {
        let (time, proof) = challenge.split_at(TIME_BYTES);
        let said = [self.me.as_str().as_bytes(), &self.mark, time];
        let made = Uptime(u64::from_le_bytes(time.try_into().unwrap_or_default()));
        keys.verify(Role::Challenger, &said, proof)
            && made <= now
            && now.since(made) <= CHALLENGE_MS
    }
}

/// What a node answers to a challenge.
#[derive(Clone, Debug)]
pub struct JoinProof {
    /// The challenge.
    pub challenge: Challenge,
    /// A number of the node's own, for the member to answer for.
    pub nonce: Nonce,
    /// For both, and for the request.
    pub proof: Proof,
}

impl JoinProof {
    /// Answers a challenge for a request.
    pub fn new(keys: &PeerKeys, challenge: Challenge, nonce: Nonce, request: &[u8]) -> Self {
        let proof = keys.prove(Role::Newcomer, &[&challenge, &nonce, request]);
        Self { challenge, nonce, proof }
    }

    /// Whether whoever made it has a key of the cluster, and made it for this request.
    pub fn is_for(&self, keys: &PeerKeys, request: &[u8]) -> bool {
        keys.verify(Role::Newcomer, &[&self.challenge, &self.nonce, request], &self.proof)
    }

    /// A member's proof of its answer: the formation, or nothing, and the body.
    pub fn welcome(&self, keys: &PeerKeys, formation: &[u8], body: &[u8]) -> Proof {
        keys.prove(Role::Welcomer, &[&self.challenge, &self.nonce, formation, body])
    }

    /// Whether an answer to this is of a member with a key of the cluster.
    pub fn is_welcome(&self, keys: &PeerKeys, formation: &[u8], body: &[u8], proof: &[u8]) -> bool {
        keys.verify(Role::Welcomer, &[&self.challenge, &self.nonce, formation, body], proof)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use quorate_protocol::proof::NONCE_BYTES;

    use crate::testing::Counting;

    #[test]
    fn a_challenge_is_known_for_a_while_to_whom_made_it() {
        let keys = PeerKeys::new(&[[1; 32]]);
        let (chance, n1) = (Counting::default(), NodeId::parse("n1").unwrap());
        let challenges = Challenges::new(n1, &chance);
        let made = challenges.issue(&keys, Uptime(5_000));
        assert!(challenges.knows(&keys, &made, Uptime(5_000)));
        assert!(challenges.knows(&keys, &made, Uptime(5_000 + CHALLENGE_MS)));
        assert!(!challenges.knows(&keys, &made, Uptime(5_001 + CHALLENGE_MS)), "too late");
        assert!(!challenges.knows(&keys, &made, Uptime(4_999)), "of a time to come");
        assert!(!Challenges::new(n1, &chance).knows(&keys, &made, Uptime(5_000)), "another start");
        for at in 0..CHALLENGE_BYTES {
            let mut changed = made;
            changed[at] ^= 1;
            assert!(!challenges.knows(&keys, &changed, Uptime(5_000)), "{at}");
        }
    }

    #[test]
    fn a_proof_is_for_one_request_and_an_answer_for_one_proof() {
        let keys = PeerKeys::new(&[[1; 32]]);
        let proof = JoinProof::new(&keys, [3; CHALLENGE_BYTES], [4; NONCE_BYTES], b"request");
        assert!(proof.is_for(&keys, b"request"));
        assert!(!proof.is_for(&keys, b"another"));
        assert!(!proof.is_for(&PeerKeys::new(&[[2; 32]]), b"request"));
        let welcome = proof.welcome(&keys, b"formation", b"body");
        assert!(proof.is_welcome(&keys, b"formation", b"body", &welcome));
        assert!(!proof.is_welcome(&keys, b"", b"formationbody", &welcome));
        assert!(!proof.is_welcome(&keys, b"formation", b"body", &proof.proof), "sent back");
        let other = JoinProof::new(&keys, [3; CHALLENGE_BYTES], [5; NONCE_BYTES], b"request");
        assert!(!other.is_welcome(&keys, b"formation", b"body", &welcome), "of another exchange");
    }
}
