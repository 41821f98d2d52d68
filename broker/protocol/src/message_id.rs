//! Ids of messages: the one that names a message by broker and log offset, and the unique one a client makes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use thiserror::Error;

/// Hex digits of an id with an IPv4 address.
const V4_DIGITS: usize = 2 * (4 + 4 + 8);
/// Hex digits of an id with an IPv6 address.
const V6_DIGITS: usize = 2 * (16 + 4 + 8);

/// Names a message by the broker that stored it and its place in that broker's log: hex of IP, port (4 bytes) and offset (8 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OffsetMessageId {
    /// The broker's address.
    pub store_host: SocketAddr,
    /// The record's place in the log.
    pub log_offset: i64,
}

/// Why a text is no offset message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageIdError {
    /// Neither an IPv4 nor an IPv6 id.
    #[error("an offset message id has {V4_DIGITS} or {V6_DIGITS} hex digits, not {0} characters; a unique id (UNIQ_KEY) is looked up by key instead")]
    Length(usize),
    /// Not a hex digit.
    #[error("the message id has no hex digit at character {0}")]
    Digit(usize),
    /// More than 65535.
    #[error("the message id names port {0}, which can't be")]
    Port(u32),
}

impl OffsetMessageId {
    /// Reads an id; digits may be of either case.
    pub fn decode(text: &str) -> Result<Self, MessageIdError> {
        let digits = text.as_bytes();
        let (ip, rest) = match digits.len() {
            V4_DIGITS => (IpAddr::V4(Ipv4Addr::from(hex::<4>(digits, 0)?)), 8),
            V6_DIGITS => (IpAddr::V6(Ipv6Addr::from(hex::<16>(digits, 0)?)), 32),
            length => return Err(MessageIdError::Length(length)),
        };
        let port = u32::from_be_bytes(hex(digits, rest)?);
        let port = u16::try_from(port).map_err(|_| MessageIdError::Port(port))?;
        let log_offset = i64::from_be_bytes(hex(digits, rest + 8)?);
        Ok(Self { store_host: SocketAddr::new(ip, port), log_offset })
    }

    /// The id as a client sees it: upper-case hex.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(V6_DIGITS);
        self.encode_to(&mut text);
        text
    }

    /// Appends the id to `text`.
    pub fn encode_to(&self, text: &mut String) {
        match self.store_host.ip() {
            IpAddr::V4(ip) => push_hex(text, &ip.octets()),
            IpAddr::V6(ip) => push_hex(text, &ip.octets()),
        }
        push_hex(text, &u32::from(self.store_host.port()).to_be_bytes());
        push_hex(text, &self.log_offset.to_be_bytes());
    }
}

fn hex<const N: usize>(digits: &[u8], start: usize) -> Result<[u8; N], MessageIdError> {
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        let digit = |at: usize| char::from(digits[at]).to_digit(16).ok_or(MessageIdError::Digit(at));
        let (high, low) = (digit(start + 2 * i)?, digit(start + 2 * i + 1)?);
        *byte = (high << 4 | low) as u8;
    }
    Ok(bytes)
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Makes the ids a client gives its messages: hex of IP, process id, a salt that tells instances in one process apart, ms since the month began, and a
/// counter. The tools take the time from it to know where to look, so it must be right.
///
/// It has no clock and no lock: the caller passes time and counter, so that ids repeat exactly in a simulation.
#[derive(Clone, Debug)]
pub struct UniqueIds {
    prefix: String,
}

impl UniqueIds {
    /// Ids of the client at `ip` in process `pid`; `salt` is any number that another client in the same process does not have.
    #[must_use]
    pub fn new(ip: IpAddr, pid: u32, salt: u32) -> Self {
        let mut prefix = String::with_capacity(44);
        match ip {
            IpAddr::V4(ip) => push_hex(&mut prefix, &ip.octets()),
            IpAddr::V6(ip) => push_hex(&mut prefix, &ip.octets()),
        }
        // The official layout has two bytes for the process id.
        push_hex(&mut prefix, &(pid as u16).to_be_bytes());
        push_hex(&mut prefix, &salt.to_be_bytes());
        Self { prefix }
    }

    /// The id of the message number `counter`, sent at `now_ms` (ms since 1970). Within a month an id comes back only when 65536 messages are sent in one
    /// millisecond.
    #[must_use]
    pub fn id(&self, now_ms: i64, counter: u64) -> String {
        let mut id = String::with_capacity(self.prefix.len() + 12);
        id.push_str(&self.prefix);
        push_hex(&mut id, &ms_of_month(now_ms).to_be_bytes());
        push_hex(&mut id, &(counter as u16).to_be_bytes());
        id
    }
}

/// Milliseconds since the month began (UTC).
fn ms_of_month(now_ms: i64) -> u32 {
    const DAY_MS: i64 = 86_400_000;
    // Years that begin in March put the leap day last: then a month's first day is a linear formula of its number. 719468 days lie between 1 March of
    // year 0 and 1970, 146097 are 400 years.
    let day_of_era = (now_ms.div_euclid(DAY_MS) + 719_468).rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5;
    (day_of_month * DAY_MS + now_ms.rem_euclid(DAY_MS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_is_hex_of_address_port_and_offset() {
        let id = OffsetMessageId { store_host: "127.0.0.1:10911".parse().expect("literal"), log_offset: 0x1234 };
        assert_eq!(id.encode(), "7F00000100002A9F0000000000001234");
        assert_eq!(OffsetMessageId::decode("7f00000100002a9f0000000000001234"), Ok(id));
    }

    #[test]
    fn what_is_no_id_is_told_why() {
        assert_eq!(OffsetMessageId::decode("00"), Err(MessageIdError::Length(2)));
        assert_eq!(OffsetMessageId::decode("7F00000100002A9F000000000000123G"), Err(MessageIdError::Digit(31)));
        assert_eq!(OffsetMessageId::decode("7F00000100012A9F0000000000001234"), Err(MessageIdError::Port(0x12A9F)));
    }

    #[test]
    fn a_unique_id_has_the_official_length() {
        let ids = UniqueIds::new("10.0.0.1".parse().expect("literal"), 7, 0xAABB_CCDD);
        assert_eq!(ids.id(0x0102_0304, 0x1_0005), "0A0000010007AABBCCDD010203040005");
        assert_eq!(ids.id(0, 0).len(), 32);
    }

    #[test]
    fn the_time_of_a_unique_id_counts_from_the_first_of_the_month() {
        // 1 and 31 January 2026, 28 and 29 February and 1 March 2024, 31 December 1969, each at noon.
        let noons =
            [(1_767_268_800_000, 0), (1_769_860_800_000, 30), (1_709_121_600_000, 27), (1_709_208_000_000, 28), (1_709_294_400_000, 0), (-43_200_000, 30)];
        for (now, days) in noons {
            assert_eq!(ms_of_month(now), days * 86_400_000 + 43_200_000, "{now}");
        }
    }

    proptest! {
        #[test]
        fn every_id_is_read_back(ip in any::<IpAddr>(), port in any::<u16>(), log_offset in any::<i64>()) {
            let id = OffsetMessageId { store_host: SocketAddr::new(ip, port), log_offset };
            prop_assert_eq!(OffsetMessageId::decode(&id.encode()), Ok(id));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,60}") {
            let _ = OffsetMessageId::decode(&text);
        }
    }
}
