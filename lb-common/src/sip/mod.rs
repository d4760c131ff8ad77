//! Reading SIP where it lies: in a packet in the kernel, in a buffer on the host.

mod call_id;
mod dialog;
mod headers;
mod lines;
mod replaces;
mod request_line;
mod search;
mod start_line;
pub mod swar;
mod uri;
mod via;
mod window;

pub use call_id::{CallId, MAX_HASHED, MAX_LENGTH, MAX_SKIPPED, call_id, long_length};
pub use dialog::{cseq_method, has_tag};
pub use headers::{Headers, MAX_BLANKS, need, scan};
pub use lines::{
    BLOCK, CallIdLine, EveryLine, Lines, REACH, STRIDE, Stops, TURNS, feeds, may_have_feed,
};
pub use replaces::referenced;
pub use request_line::may_be_request_line;
pub use search::find_call_id;
pub use start_line::{Code, MAX_LEADING, Message, Method, start_line};
pub use uri::{
    DomainHash, MAX_KEY, MAX_LABELS, Place, Span, Uri, address, domains, request_uri, seek,
    span_hash, uri,
};
pub use via::{
    BLANK_STEPS, DEFAULT_PORT, MAX_HOST, MAX_V6, SentBy, TOKEN_WORDS, host_text, host_v6, sent_by,
};
#[cfg(feature = "user")]
pub use window::Payload;
pub use window::Window;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{self, HashKey};

    #[test]
    fn an_invite_yields_what_the_datapath_needs() {
        let text = b"INVITE sip:bob@biloxi.example SIP/2.0\r\nVia: SIP/2.0/UDP pc33;branch=z9hG4bK776\r\n\
            Max-Forwards: 70\r\nTo: \"Bob;tag=no\" <sip:bob@biloxi.example;tag=no>\r\nFrom: <sip:a@b>;tag=1\r\n\
            Call-ID: a84b4c76e66710@pc33\r\nCSeq: 314159 INVITE\r\nContent-Length: 0\r\n\r\nCall-ID: body\r\n";
        let window = Payload::new(text);
        let (message, start) = start_line(&window).unwrap();
        assert_eq!(message, Message::Request(Method::Invite));
        let headers = scan(&window, need::ALL, start).unwrap();
        let key = HashKey { k0: 1, k1: 2 };
        let found = call_id(&window, find_call_id(&window, start).unwrap(), key).unwrap().unwrap();
        assert_eq!(found.hash, hash::bytes(key, b"a84b4c76e66710@pc33"));
        assert_eq!(found.length, 19);
        assert!(!has_tag(&window, headers.to()).unwrap());
        assert_eq!(cseq_method(&window, headers.cseq()).unwrap(), Method::Invite);
        assert!(!headers.has_second_call_id());
    }
}
