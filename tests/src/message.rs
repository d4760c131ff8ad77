//! SIP messages for tests (RFC 3261 §7), of any size, with the given Call-ID, tags and headers.

use std::{fmt::Write as _, net::SocketAddr};

use crate::net::{Family, client, vip};

/// Methods of RFC 3261, 6665, 3515.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Invite,
    Ack,
    Bye,
    Cancel,
    Register,
    Options,
    Subscribe,
    Notify,
    Refer,
    Message,
    Update,
    Prack,
}

impl Method {
    /// As it stands in a start line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invite => "INVITE",
            Self::Ack => "ACK",
            Self::Bye => "BYE",
            Self::Cancel => "CANCEL",
            Self::Register => "REGISTER",
            Self::Options => "OPTIONS",
            Self::Subscribe => "SUBSCRIBE",
            Self::Notify => "NOTIFY",
            Self::Refer => "REFER",
            Self::Message => "MESSAGE",
            Self::Update => "UPDATE",
            Self::Prack => "PRACK",
        }
    }
}

/// A message in the making; [`Message::build`] gives the bytes.
#[derive(Clone, Debug)]
pub struct Message {
    start_line: String,
    method: Method,
    call_id: Option<String>,
    via: Vec<String>,
    from: String,
    to: String,
    from_tag: String,
    to_tag: Option<String>,
    cseq: u32,
    headers: Vec<(String, String)>,
    body: Option<String>,
    compact: bool,
    call_id_last: bool,
    size: Option<usize>,
}

impl Message {
    /// A request to the first VIP from the first client, with a From tag and no To tag.
    #[must_use]
    pub fn request(method: Method, call_id: &str) -> Self {
        let to = vip(Family::V4, 0);
        let message = Self {
            start_line: format!("{} sip:service@{to} SIP/2.0", method.name()),
            method,
            call_id: Some(call_id.to_owned()),
            via: Vec::new(),
            from: "<sip:caller@example.com>".to_owned(),
            to: "<sip:service@example.com>".to_owned(),
            from_tag: "caller".to_owned(),
            to_tag: None,
            cseq: 1,
            headers: Vec::new(),
            body: None,
            compact: false,
            call_id_last: false,
            size: None,
        };
        message.via(client(Family::V4, 0), "z9hG4bK-1")
    }

    /// A new INVITE with an offer.
    #[must_use]
    pub fn invite(call_id: &str) -> Self {
        let body = "v=0\r\no=- 1 1 IN IP4 198.51.100.10\r\ns=-\r\nc=IN IP4 198.51.100.10\r\n\
                    t=0 0\r\nm=audio 6000 RTP/AVP 8\r\n";
        Self::request(Method::Invite, call_id).body("application/sdp", body)
    }

    /// A response to a request of that method, with a To tag unless it is a 100.
    #[must_use]
    pub fn response(status: u16, method: Method, call_id: &str) -> Self {
        let request = Self::request(method, call_id);
        Self {
            start_line: format!("SIP/2.0 {status} {}", reason(status)),
            to_tag: (status > 100).then(|| "callee".to_owned()),
            ..request
        }
    }

    /// The start line instead of the usual one.
    #[must_use]
    pub fn start_line(mut self, line: &str) -> Self {
        line.clone_into(&mut self.start_line);
        self
    }

    /// One more Via above those given before (the first call replaces the default one).
    #[must_use]
    pub fn via(mut self, sent_by: SocketAddr, branch: &str) -> Self {
        self.via.insert(0, format!("SIP/2.0/UDP {sent_by};branch={branch}"));
        self
    }

    /// Only this Via.
    #[must_use]
    pub fn only_via(mut self, sent_by: SocketAddr, branch: &str) -> Self {
        self.via.clear();
        self.via(sent_by, branch)
    }

    /// No Call-ID at all.
    #[must_use]
    pub fn without_call_id(mut self) -> Self {
        self.call_id = None;
        self
    }

    /// The From header's value before its tag.
    #[must_use]
    pub fn from(mut self, value: &str) -> Self {
        value.clone_into(&mut self.from);
        self
    }

    /// The To header's value before its tag.
    #[must_use]
    pub fn to(mut self, value: &str) -> Self {
        value.clone_into(&mut self.to);
        self
    }

    #[must_use]
    pub fn from_tag(mut self, tag: &str) -> Self {
        tag.clone_into(&mut self.from_tag);
        self
    }

    /// A To tag: in a request, the mark of an existing dialog.
    #[must_use]
    pub fn to_tag(mut self, tag: &str) -> Self {
        self.to_tag = Some(tag.to_owned());
        self
    }

    #[must_use]
    pub fn cseq(mut self, number: u32) -> Self {
        self.cseq = number;
        self
    }

    /// One more header, between Contact and Content-Length.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn body(mut self, content_type: &str, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self.header("Content-Type", content_type)
    }

    /// Compact header names (RFC 3261 §7.3.3).
    #[must_use]
    pub fn compact(mut self) -> Self {
        self.compact = true;
        self
    }

    /// The Call-ID as the last header, after all filling.
    #[must_use]
    pub fn call_id_last(mut self) -> Self {
        self.call_id_last = true;
        self
    }

    /// Fills up to exactly this many bytes by a header `X-Fill`.
    #[must_use]
    pub fn size(mut self, bytes: usize) -> Self {
        self.size = Some(bytes);
        self
    }

    /// The message.
    ///
    /// # Panics
    /// If the message is longer than the wanted size without any filling.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let Some(size) = self.size else { return self.text(None).into_bytes() };
        let least = self.text(Some(0)).len();
        assert!(least <= size, "a message of {least} bytes does not shrink to {size}");
        self.text(Some(size - least)).into_bytes()
    }

    fn text(&self, fill: Option<usize>) -> String {
        let mut out = format!("{}\r\n", self.start_line);
        let mut line = |name: &str, short: &str, value: &str| {
            let name = if self.compact { short } else { name };
            // Writing to a String cannot fail.
            let _ = write!(out, "{name}: {value}\r\n");
        };
        for via in &self.via {
            line("Via", "v", via);
        }
        line("Max-Forwards", "Max-Forwards", "70");
        line("From", "f", &format!("{};tag={}", self.from, self.from_tag));
        let tag = self.to_tag.as_ref().map_or_else(String::new, |tag| format!(";tag={tag}"));
        line("To", "t", &format!("{}{tag}", self.to));
        let call_id = self.call_id.as_deref();
        if let (Some(id), false) = (call_id, self.call_id_last) {
            line("Call-ID", "i", id);
        }
        line("CSeq", "CSeq", &format!("{} {}", self.cseq, self.method.name()));
        line("Contact", "m", "<sip:caller@198.51.100.10:5060>");
        for (name, value) in &self.headers {
            line(name, name, value);
        }
        if let Some(fill) = fill {
            line("X-Fill", "X-Fill", &"x".repeat(fill));
        }
        let body = self.body.as_deref().unwrap_or_default();
        line("Content-Length", "l", &body.len().to_string());
        if let (Some(id), true) = (call_id, self.call_id_last) {
            line("Call-ID", "i", id);
        }
        out.push_str("\r\n");
        out.push_str(body);
        out
    }
}

/// Reason phrase (RFC 3261 §21).
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        401 => "Unauthorized",
        404 => "Not Found",
        481 => "Call/Transaction Does Not Exist",
        486 => "Busy Here",
        487 => "Request Terminated",
        503 => "Service Unavailable",
        _ => "Whatever",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(message: &Message) -> String {
        String::from_utf8(message.build()).unwrap()
    }

    #[test]
    fn sizes_are_exact() {
        for size in [600, 900, 1_400] {
            assert_eq!(Message::invite("a@b").size(size).build().len(), size);
            assert_eq!(Message::response(200, Method::Invite, "a").size(size).build().len(), size);
        }
    }

    #[test]
    fn a_message_says_what_was_asked() {
        let invite = text(&Message::invite("a@b").header("Replaces", "x"));
        assert!(invite.starts_with("INVITE sip:service@203.0.113.10:5060 SIP/2.0\r\n"));
        assert!(invite.contains("\r\nCall-ID: a@b\r\n"));
        assert!(invite.contains("\r\nReplaces: x\r\n"));
        assert!(!invite.contains("tag=callee"));
        let (head, body) = invite.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())));

        let ok = text(&Message::response(200, Method::Invite, "a@b").compact());
        assert!(ok.starts_with("SIP/2.0 200 OK\r\nv: "));
        assert!(ok.contains("\r\ni: a@b\r\n") && ok.contains(";tag=callee\r\n"));

        let late = text(&Message::request(Method::Options, "zz").call_id_last().size(1_000));
        assert!(late.ends_with("\r\nCall-ID: zz\r\n\r\n"));
        assert!(!text(&Message::request(Method::Bye, "zz").without_call_id()).contains("Call-ID"));
    }

    #[test]
    #[should_panic(expected = "does not shrink")]
    fn a_size_below_the_least_is_refused() {
        let _ = Message::invite("a").size(10).build();
    }
}
