//! From the bytes of a question to the bytes of its answer. Whatever the bytes are: no panic, no I/O.
//!
//! Never recursive: what is outside the zone is refused, and RA stays clear.

use std::net::SocketAddr;

use hickory_server::net::xfer::Protocol;
use hickory_server::proto::ProtoError;
use hickory_server::proto::op::{Edns, Header, LowerQuery, Metadata, ResponseCode, emit_message_parts};
use hickory_server::proto::rr::rdata::{HINFO, TXT};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::Request;

use super::zone::{Label, PASSING_TTL, Place, Zone};

/// Octets of the header of a message (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// The most that goes through by UDP without EDNS, and with it: no fragments on any usual path.
const PLAIN_UDP: u16 = 512;
const EDNS_UDP: u16 = 1232;
/// The most that one string of a TXT record holds.
const TXT_STRING: usize = 255;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What is to be done about a packet.
pub enum Heard {
    /// It is no question, or none that may be answered.
    Nothing,
    Answer(Vec<u8>),
    /// The answer depends on what orders need now.
    Asks(Box<Question>),
}

/// A question about what is at a label.
pub struct Question {
    request: Request,
    label: Label,
}

/// What is at a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Values(std::sync::Arc<[String]>),
    Nothing,
    /// Nobody knows: the database does not answer.
    Away,
}

/// What an answer says.
#[derive(Default)]
struct Content {
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Zone {
    /// Reads a packet, and answers it where that needs nothing but the zone itself.
    pub fn hear(&self, packet: &[u8], from: SocketAddr, by: Transport) -> Heard {
        // What is shorter than a header, or an answer itself, is not answered: two servers could go on for ever.
        if packet.len() < HEADER || packet[2] & 0x80 != 0 {
            return Heard::Nothing;
        }
        if packet[2] & 0x78 != 0 {
            return Heard::Answer(bare(packet, ResponseCode::NotImp));
        }
        let form_error = Heard::Answer(bare(packet, ResponseCode::FormErr));
        if packet[4..6] != [0, 1] {
            return form_error;
        }
        let protocol = match by {
            Transport::Udp => Protocol::Udp,
            Transport::Tcp => Protocol::Tcp,
        };
        let Ok(request) = Request::from_bytes(packet.to_vec(), from, protocol) else {
            return form_error;
        };
        let [query] = request.queries.queries() else {
            return form_error;
        };
        let name = query.original().name();
        // Nobody compresses the first name of a message; what it would point to is not a name.
        let length = name.len() + usize::from(!name.is_root());
        if request.queries.as_bytes().len() != length + 4 {
            return form_error;
        }
        if request.version() > 0 {
            return Heard::Answer(answer(&request, ResponseCode::BADVERS, false, &Content::default()));
        }
        let refused = |request| Heard::Answer(answer(request, ResponseCode::Refused, false, &Content::default()));
        let record_type = query.query_type();
        if query.query_class() != DNSClass::IN || !is_answered(record_type) {
            return refused(&request);
        }
        let found = match self.place(query.name()) {
            Place::Outside => return refused(&request),
            Place::Nothing => None,
            Place::Apex if record_type == RecordType::ANY => Some(vec![any(name)]),
            Place::Apex => Some(self.at_apex(name, record_type)),
            Place::NameServer if record_type == RecordType::ANY => Some(vec![any(name)]),
            Place::NameServer => Some(self.at_name_server(name, record_type)),
            Place::Label(label) => return Heard::Asks(Box::new(Question { request, label })),
        };
        let additionals = if record_type == RecordType::NS { self.glue().to_vec() } else { Vec::new() };
        Heard::Answer(self.authoritative(&request, found, additionals))
    }

    /// `found`: None where there is no such name, empty where it has nothing of that type.
    fn authoritative(&self, request: &Request, found: Option<Vec<Record>>, additionals: Vec<Record>) -> Vec<u8> {
        let code = if found.is_some() { ResponseCode::NoError } else { ResponseCode::NXDomain };
        let content = match found {
            Some(answers) if !answers.is_empty() => Content { answers, additionals, ..Content::default() },
            _ => Content { authorities: vec![self.negative()], ..Content::default() },
        };
        answer(request, code, true, &content)
    }
}

impl Question {
    pub fn label(&self) -> Label {
        self.label
    }

    pub fn answer(&self, zone: &Zone, found: &Found) -> Vec<u8> {
        let [query] = self.request.queries.queries() else {
            unreachable!("a message with one question became a Question")
        };
        let name = query.original().name();
        let records = match (found, query.query_type()) {
            (Found::Away, _) => return answer(&self.request, ResponseCode::ServFail, false, &Content::default()),
            (Found::Nothing, _) => None,
            (Found::Values(_), RecordType::ANY) => Some(vec![any(name)]),
            (Found::Values(values), RecordType::TXT) => Some(values.iter().map(|value| txt(name, value)).collect()),
            (Found::Values(_), _) => Some(Vec::new()),
        };
        zone.authoritative(&self.request, records, Vec::new())
    }
}

/// Zone transfers and other questions that are not about records are refused (RFC 6895 section 3.1); all the rest is answered.
fn is_answered(record_type: RecordType) -> bool {
    record_type == RecordType::ANY || !(128..=255).contains(&u16::from(record_type))
}

fn txt(owner: &Name, value: &str) -> Record {
    let strings = value.as_bytes().chunks(TXT_STRING).collect();
    Record::from_rdata(owner.clone(), PASSING_TTL, RData::TXT(TXT::from_bytes(strings)))
}

/// Enough of an answer to "everything" (RFC 8482).
fn any(owner: &Name) -> Record {
    let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
    Record::from_rdata(owner.clone(), PASSING_TTL, RData::HINFO(hinfo))
}

/// An answer that is only a header, for a packet of which nothing else can be relied on.
fn bare(packet: &[u8], code: ResponseCode) -> Vec<u8> {
    let opcode_and_recursion_desired = packet[2] & 0x79;
    let mut answer = vec![packet[0], packet[1], 0x80 | opcode_and_recursion_desired, code.low() & 0x0f];
    answer.resize(HEADER, 0);
    answer
}

fn answer(request: &Request, code: ResponseCode, authoritative: bool, content: &Content) -> Vec<u8> {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = code;
    metadata.authoritative = authoritative;
    let edns = request.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_UDP).set_version(0).set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    let most = match (request.protocol(), &request.edns) {
        (Protocol::Udp, None) => PLAIN_UDP,
        (Protocol::Udp, Some(asked)) => asked.max_payload().clamp(PLAIN_UDP, EDNS_UDP),
        _ => u16::MAX,
    };
    let encoded = encode(request, metadata, edns.as_ref(), content, most).and_then(|(header, bytes)| {
        if !header.metadata.truncation || request.protocol() != Protocol::Udp {
            return Ok(bytes);
        }
        // A part of them is of no use: whoever sees TC asks again by TCP.
        metadata.truncation = true;
        encode(request, metadata, edns.as_ref(), &Content::default(), most).map(|(_, bytes)| bytes)
    });
    encoded.unwrap_or_else(|error| {
        tracing::error!(%error, "an answer cannot be written; this is a bug");
        bare(request.as_slice(), ResponseCode::ServFail)
    })
}

fn encode(
    request: &Request,
    metadata: Metadata,
    edns: Option<&Edns>,
    content: &Content,
    most: u16,
) -> Result<(Header, Vec<u8>), ProtoError> {
    let mut bytes = Vec::with_capacity(PLAIN_UDP.into());
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(most);
    // As they were asked, in their own case, and so that the names of the records can point to them.
    let mut queries = request.queries.queries().iter().map(LowerQuery::original);
    let header = emit_message_parts(
        &metadata,
        &mut queries,
        &mut content.answers.iter(),
        &mut content.authorities.iter(),
        &mut content.additionals.iter(),
        edns,
        None,
        &mut encoder,
    )?;
    Ok((header, bytes))
}
