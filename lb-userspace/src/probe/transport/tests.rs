use std::time::Duration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

async fn receive(socket: &ProbeSocket, buffer: &mut [u8]) -> Received {
    let something = async {
        loop {
            socket.ready().await.expect("a running runtime");
            match socket.receive(buffer).expect("receive") {
                Received::Nothing => tokio::task::yield_now().await,
                something @ (Received::Datagram(_) | Received::Refused(_)) => {
                    return something;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, something).await.expect("something comes")
}

fn open(endpoint: SocketAddr) -> ProbeSocket {
    ProbeSocket::open(endpoint, Sources::default()).expect("loopback socket")
}

/// A port on which nothing listens.
fn closed_port(local: &str) -> SocketAddr {
    let socket = std::net::UdpSocket::bind(local).expect("loopback socket");
    socket.local_addr().expect("bound")
}

#[tokio::test]
async fn datagrams_go_both_ways_and_strangers_are_not_heard() {
    for local in ["127.0.0.1:0", "[::1]:0"] {
        let peer = std::net::UdpSocket::bind(local).expect("loopback socket");
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let stranger = std::net::UdpSocket::bind(local).expect("loopback socket");
        let socket = open(peer.local_addr().expect("bound"));
        assert_eq!(socket.send(b"ping").expect("send"), None);

        let mut buffer = [0; 64];
        let (length, from) = peer.recv_from(&mut buffer).expect("the probe");
        assert_eq!((&buffer[..length], from), (&b"ping"[..], socket.local()));
        stranger.send_to(b"forged", from).expect("send");
        peer.send_to(b"pong", from).expect("send");
        assert_eq!(receive(&socket, &mut buffer).await, Received::Datagram(4));
        assert_eq!(&buffer[..4], b"pong");
        assert_eq!(socket.receive(&mut buffer).expect("receive"), Received::Nothing);
    }
}

#[tokio::test]
async fn a_closed_port_is_reported_without_a_timeout() {
    // No other test binds to 127.0.0.77: the port stays closed.
    for local in ["127.0.0.77:0", "[::1]:0"] {
        let socket = open(closed_port(local));
        assert_eq!(socket.send(b"ping").expect("send"), None);
        let refused = Received::Refused(ProbeResult::PortUnreachable);
        assert_eq!(receive(&socket, &mut [0; 64]).await, refused, "{local}");
    }
}

#[tokio::test]
async fn an_error_that_is_met_when_sending_does_not_cost_the_next_probe() {
    let endpoint = closed_port("127.0.0.77:0");
    let socket = open(endpoint);
    assert_eq!(socket.send(b"first").expect("send"), None);
    let peer = std::net::UdpSocket::bind(endpoint).expect("free again");
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let icmp = socket.send(b"second").expect("send");
    assert_eq!(icmp, Some(ProbeResult::PortUnreachable));
    let mut buffer = [0; 64];
    let length = peer.recv(&mut buffer).expect("the second probe");
    assert_eq!(&buffer[..length], b"second");
}

#[tokio::test]
async fn what_the_runtime_has_not_seen_can_be_read() {
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback socket");
    let socket = open(peer.local_addr().expect("bound"));
    peer.send_to(b"pong", socket.local()).expect("send");
    // No await yet: the runtime had no chance to look at the socket.
    let mut buffer = [0; 64];
    assert_eq!(socket.receive(&mut buffer).expect("receive"), Received::Nothing);
    assert_eq!(socket.receive_unseen(&mut buffer).expect("receive"), Received::Datagram(4));
    assert_eq!(socket.receive_unseen(&mut buffer).expect("receive"), Received::Nothing);
}

#[tokio::test]
async fn the_source_address_is_the_configured_one_of_the_family() {
    let sources =
        Sources { ipv4: Some(Ipv4Addr::new(127, 0, 0, 9)), ipv6: Some(Ipv6Addr::LOCALHOST) };
    for (local, source) in [("127.0.0.1:0", "127.0.0.9"), ("[::1]:0", "::1")] {
        let socket = ProbeSocket::open(closed_port(local), sources).expect("loopback socket");
        assert_eq!(socket.local().ip().to_string(), source);
    }
    let foreign = Sources { ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)), ipv6: None };
    let error = ProbeSocket::open(closed_port("127.0.0.77:0"), foreign).expect_err("not ours");
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
}
