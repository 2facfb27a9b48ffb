//! Questions as they arrive, and the messages that answer them.

use hickory_proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name};

use super::lookup::{Family, Lookup};

/// The largest answer over UDP: Envoy is on this machine, where nothing is fragmented.
const LARGEST_DATAGRAM: u16 = 4096;

/// What arrived.
pub enum Received {
    /// A question for addresses.
    Question(Box<Question>),
    /// Something else that has this answer.
    Other(Vec<u8>),
    /// Nothing that anybody waits for an answer to.
    Noise,
}

/// A question for the addresses of a name.
pub struct Question {
    name: Name,
    family: Family,
    /// What the asker takes over UDP.
    payload: u16,
    /// With the question, and EDNS if the asker speaks it.
    unanswered: Message,
}

/// How an answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// With little room.
    Udp,
    /// With enough.
    Tcp,
}

impl Received {
    /// Reads a message.
    pub fn read(bytes: &[u8]) -> Received {
        // Questions have one question and nothing else but EDNS; checked first, so that counts that lie cost nothing.
        let [id_high, id_low, flags, _, counts @ ..] = bytes else { return Received::Noise };
        if flags & 0x80 != 0 {
            return Received::Noise;
        }
        let id = u16::from_be_bytes([*id_high, *id_low]);
        let malformed = || encode(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr));
        let Some(message) = matches!(counts, [0, 1, 0, 0, 0, 0, 0, 0 | 1, ..])
            .then(|| Message::from_vec(bytes).ok())
            .flatten()
        else {
            return Received::reply(malformed());
        };
        let [query] = message.queries.as_slice() else { return Received::reply(malformed()) };
        let mut answer = Message::response(id, message.metadata.op_code);
        answer.metadata = Metadata::response_from_request(&message.metadata);
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        // Without it the asker would take us for a server from before EDNS, and ask again.
        answer.edns = message.edns.as_ref().map(|_| edns());
        if message.version() != 0 {
            answer.metadata.response_code = ResponseCode::BADVERS;
        } else if message.metadata.op_code != OpCode::Query || query.query_class != DNSClass::IN {
            answer.metadata.response_code = ResponseCode::NotImp;
        } else if let Some(family) = Family::of(query.query_type) {
            return Received::Question(Box::new(Question {
                name: query.name.clone(),
                family,
                payload: message.max_payload(),
                unanswered: answer,
            }));
        }
        // Of any other type there are no records here.
        Received::reply(encode(&answer))
    }

    fn reply(bytes: Option<Vec<u8>>) -> Received {
        bytes.map_or(Received::Noise, Received::Other)
    }
}

impl Question {
    /// The name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Which addresses.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The message that answers it.
    pub fn answer(
        &self,
        code: ResponseCode,
        lookup: Option<&Lookup>,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let mut answer = self.unanswered.clone();
        answer.metadata.response_code = code;
        if let Some(lookup) = lookup {
            let (answers, authority) = lookup.records();
            answer.add_answers(answers);
            answer.add_authorities(authority);
        }
        let room = match transport {
            Transport::Udp => self.payload.min(LARGEST_DATAGRAM),
            Transport::Tcp => u16::MAX,
        };
        let bytes = encode(&answer)?;
        if bytes.len() <= room.into() { Some(bytes) } else { encode(&answer.truncate()) }
    }
}

fn edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(LARGEST_DATAGRAM);
    edns
}

/// `None` is for messages that cannot be written, which ours can.
fn encode(message: &Message) -> Option<Vec<u8>> {
    message.to_vec().ok()
}
