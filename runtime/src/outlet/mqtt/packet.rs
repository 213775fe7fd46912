//! The packets of MQTT 3.1.1 (OASIS standard) that a client needs which only publishes.

/// What a broker may say to such a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// CONNACK, with its return code.
    Connected(u8),
    /// PUBACK of a packet identifier.
    Taken(u16),
    /// PINGRESP.
    Alive,
}

/// Bytes that are no such packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign;

/// The longest packet that a client may be sent.
pub(super) const MAX_ANSWER_BYTES: usize = 4;
/// The most that the standard's length can say.
const MAX_REST_BYTES: usize = 268_435_455;

/// Who connects, and what the broker says for it when it is gone.
#[derive(Clone, Debug)]
pub(super) struct Connect<'a> {
    pub(super) client_id: &'a str,
    pub(super) keep_alive_s: u16,
    pub(super) will: (&'a str, &'a [u8]),
    pub(super) user: Option<&'a str>,
    pub(super) password: Option<&'a str>,
}

/// A field with its length. What is too long for one is cut: the configuration's limits are far below.
fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    let n = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend(n.to_be_bytes());
    out.extend(&bytes[..usize::from(n)]);
}

/// `rest` behind its first byte and its length, seven bits a byte.
fn packet(first: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut n = rest.len().min(MAX_REST_BYTES);
    loop {
        let low = u8::try_from(n & 127).unwrap_or(0);
        n >>= 7;
        out.push(if n > 0 { low | 128 } else { low });
        if n == 0 {
            break;
        }
    }
    out.extend(&rest[..rest.len().min(MAX_REST_BYTES)]);
    out
}

/// CONNECT, without a session that outlives the connection; the will is retained, with QoS 1.
pub(super) fn connect(connect: &Connect) -> Vec<u8> {
    const CLEAN_SESSION: u8 = 2;
    const WILL: u8 = 0b0010_1100;
    let mut flags = CLEAN_SESSION | WILL;
    flags |= if connect.user.is_some() { 128 } else { 0 };
    flags |= if connect.password.is_some() { 64 } else { 0 };
    let mut rest = Vec::new();
    field(&mut rest, b"MQTT");
    rest.extend([4, flags]);
    rest.extend(connect.keep_alive_s.to_be_bytes());
    field(&mut rest, connect.client_id.as_bytes());
    field(&mut rest, connect.will.0.as_bytes());
    field(&mut rest, connect.will.1);
    connect.user.iter().chain(&connect.password).for_each(|text| field(&mut rest, text.as_bytes()));
    packet(0x10, &rest)
}

/// PUBLISH with QoS 1.
pub(super) fn publish(topic: &str, payload: &[u8], is_retained: bool, id: u16) -> Vec<u8> {
    let mut rest = Vec::with_capacity(topic.len() + payload.len() + 4);
    field(&mut rest, topic.as_bytes());
    rest.extend(id.to_be_bytes());
    rest.extend(payload);
    packet(0x32 | u8::from(is_retained), &rest)
}

/// PINGREQ.
pub(super) const PING: [u8; 2] = [0xc0, 0];
/// DISCONNECT.
pub(super) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// The packet at the start of `bytes` and its length; `None` where it isn't complete.
///
/// # Errors
/// [`Foreign`].
pub(super) fn answer(bytes: &[u8]) -> Result<Option<(Answer, usize)>, Foreign> {
    match *bytes {
        [0x20, 2, 0 | 1, code, ..] => Ok(Some((Answer::Connected(code), 4))),
        [0x40, 2, high, low, ..] => Ok(Some((Answer::Taken(u16::from_be_bytes([high, low])), 4))),
        [0xd0, 0, ..] => Ok(Some((Answer::Alive, 2))),
        [] | [0x20 | 0x40 | 0xd0] | [0x20 | 0x40, 2] | [0x20, 2, 0 | 1] | [0x40, 2, _] => Ok(None),
        _ => Err(Foreign),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_those_of_the_standard() {
        let text = Connect {
            client_id: "ab",
            keep_alive_s: 300,
            will: ("w", b"off"),
            user: Some("u"),
            password: Some("pw"),
        };
        let expected = b"\x10\x1d\0\x04MQTT\x04\xee\x01\x2c\0\x02ab\0\x01w\0\x03off\0\x01u\0\x02pw";
        assert_eq!(connect(&text), expected);
        assert_eq!(publish("t", b"xy", true, 258), b"\x33\x07\0\x01t\x01\x02xy");
        // 321 bytes: the standard's own example of a length of two bytes.
        assert_eq!(publish("t", &[0; 316], false, 1)[..3], [0x32, 0xc1, 0x02]);
    }

    #[test]
    fn whatever_comes_is_an_answer_or_foreign_and_never_waited_for_without_end() {
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                for third in [0, 1, 2, 255] {
                    let bytes = [first, second, third, 7];
                    for n in 0..4 {
                        let (part, whole) = (answer(&bytes[..n]), answer(&bytes));
                        // What is complete or foreign stays that, and what isn't complete is decided by four bytes.
                        assert!(part == Ok(None) || part == whole || part == Err(Foreign), "{bytes:?} {n}");
                        assert!(part != Err(Foreign) || whole == Err(Foreign), "{bytes:?} {n}");
                    }
                    assert_ne!(answer(&bytes), Ok(None), "{bytes:?}");
                }
            }
        }
        assert_eq!(answer(&[0x40, 2, 1, 2, 0xd0]), Ok(Some((Answer::Taken(258), 4))));
        assert_eq!(answer(&[0x20, 2, 0, 5]), Ok(Some((Answer::Connected(5), 4))));
    }
}
