//! Text to values. Every function says in words why it refused.

use super::CoordinatorPlace;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

const NAME_BYTES_MAX: usize = 127;

/// Items between `,` or `;`, without blanks and empties.
pub(super) fn list(raw: &str) -> impl Iterator<Item = &str> {
    raw.split([',', ';']).map(str::trim).filter(|item| !item.is_empty())
}

pub(super) fn non_empty(raw: &str) -> Result<&str, String> {
    if raw.is_empty() { Err("it is empty".into()) } else { Ok(raw) }
}

pub(super) fn integer(raw: &str, min: u64, max: u64) -> Result<u64, String> {
    let number: u64 = raw.parse().map_err(|_| "it is not a whole number".to_owned())?;
    if (min..=max).contains(&number) { Ok(number) } else { Err(format!("it is not between {min} and {max}")) }
}

pub(super) fn port(raw: &str) -> Result<u16, String> {
    integer(raw, 1, u64::from(u16::MAX)).map(|port| port as u16)
}

pub(super) fn ratio(raw: &str, min: f64, max: f64) -> Result<f64, String> {
    let number: f64 = raw.parse().map_err(|_| "it is not a number".to_owned())?;
    if (min..=max).contains(&number) { Ok(number) } else { Err(format!("it is not between {min:.2} and {max:.2}")) }
}

pub(super) fn boolean(raw: &str) -> Result<bool, String> {
    match raw {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err("it is neither true nor false".into()),
    }
}

pub(super) fn ip(raw: &str) -> Result<IpAddr, String> {
    raw.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| "it is not an IP address".to_owned())
}

/// One address with its port, or none.
pub(super) fn socket(raw: &str) -> Result<Option<SocketAddr>, String> {
    if raw == "none" {
        return Ok(None);
    }
    let address: SocketAddr = raw.parse().map_err(|_| format!("{raw:?} is no IP address with a port"))?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(format!("{raw:?} is no place that clients can reach"));
    }
    Ok(Some(address))
}

/// What `parse` makes of it, or nothing for `auto`.
pub(super) fn auto<T>(raw: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if raw == "auto" { Ok(None) } else { parse(raw).map(Some) }
}

pub(super) fn addresses(raw: &str) -> Result<Vec<String>, String> {
    if raw == "none" {
        return Ok(Vec::new());
    }
    let list: Vec<String> = list(raw).map(str::to_owned).collect();
    for address in &list {
        let Some((host, number)) = address.rsplit_once(':') else { return Err(format!("{address:?} has no port")) };
        if host.is_empty() {
            return Err(format!("{address:?} has no host"));
        }
        port(number).map_err(|_| format!("the port of {address:?} is not a number from 1 to 65535"))?;
    }
    if list.is_empty() { Err("it is empty".into()) } else { Ok(list) }
}

/// `1=host:port,2=host:port`.
pub(super) fn members(raw: &str) -> Result<BTreeMap<u32, String>, String> {
    let mut members = BTreeMap::new();
    if raw == "none" {
        return Ok(members);
    }
    for item in list(raw) {
        let Some((number, address)) = item.split_once('=') else { return Err(format!("{item:?} is not of the form number=host:port")) };
        let number = integer(number.trim(), 1, 1_000_000).map_err(|why| format!("the number of {item:?}: {why}"))? as u32;
        let address = addresses(address.trim())?.swap_remove(0);
        if members.insert(number, address).is_some() {
            return Err(format!("member {number} is there twice"));
        }
    }
    if members.is_empty() { Err("it is empty".into()) } else { Ok(members) }
}

/// `etcd://host:port,host:port` or `kubernetes://namespace/name`.
pub(super) fn coordinator(raw: &str) -> Result<Option<CoordinatorPlace>, String> {
    if raw == "none" {
        return Ok(None);
    }
    if let Some(rest) = raw.strip_prefix("etcd://") {
        return addresses(rest.trim_end_matches('/')).map(|endpoints| Some(CoordinatorPlace::Etcd(endpoints)));
    }
    let Some(rest) = raw.strip_prefix("kubernetes://") else { return Err("it begins neither with etcd:// nor with kubernetes://".into()) };
    let Some((namespace, name)) = rest.trim_end_matches('/').split_once('/') else { return Err("it is not of the form kubernetes://namespace/name".into()) };
    if !is_label(namespace, false) {
        return Err(format!("{namespace:?} can't be a namespace of Kubernetes: lower-case letters, digits and '-', at most 63"));
    }
    if name.len() > 253 || !name.split('.').all(|part| is_label(part, true)) {
        return Err(format!("{name:?} can't be a name in Kubernetes: lower-case letters, digits, '-' and '.', at most 253"));
    }
    Ok(Some(CoordinatorPlace::Kubernetes { namespace: namespace.to_owned(), name: name.to_owned() }))
}

/// Whether it is a label of a name in Kubernetes; those of longer names have no bound of their own.
fn is_label(text: &str, of_longer: bool) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && (of_longer || text.len() <= 63) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

pub(super) fn plain_name(raw: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    match raw.len() {
        0 => Err("it is empty".into()),
        n if n > NAME_BYTES_MAX => Err(format!("it has {n} bytes")),
        _ if !raw.bytes().all(legal) => Err("it has a character that is not allowed".into()),
        _ => Ok(raw.to_owned()),
    }
}

/// `auto` becomes the host's name, with what no broker name may have replaced.
pub(super) fn broker_name(raw: &str) -> Result<String, String> {
    if raw != "auto" {
        return plain_name(raw);
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '-' };
    let name: String = host.chars().map(legal).take(NAME_BYTES_MAX).collect();
    Ok(if name.is_empty() { "sluice".to_owned() } else { name })
}

pub(super) fn log_filter(raw: &str) -> Result<String, String> {
    non_empty(raw)?;
    tracing_subscriber::EnvFilter::try_new(raw).map(|_| raw.to_owned()).map_err(|error| error.to_string())
}

/// Splits `90s` into its number and unit.
fn number_and_unit(raw: &str) -> Option<(u64, &str)> {
    let digits = raw.find(|c: char| !c.is_ascii_digit()).unwrap_or(raw.len());
    let (number, unit) = raw.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

fn parse_duration(raw: &str) -> Result<Duration, String> {
    let (number, unit) = number_and_unit(raw).ok_or("it is not a whole number with a unit, such as 500ms, 30s, 10m, 72h or 7d")?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(format!("it has no unit; write {raw}ms, {raw}s, {raw}m, {raw}h or {raw}d")),
        other => return Err(format!("{other:?} is no unit of time; use ms, s, m, h or d")),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(|| "it is too long".to_owned())
}

pub(super) fn duration(raw: &str, min: &str, max: &str) -> Result<Duration, String> {
    let value = parse_duration(raw)?;
    if (parse_duration(min)?..=parse_duration(max)?).contains(&value) { Ok(value) } else { Err(format!("it is not between {min} and {max}")) }
}

fn parse_bytes(raw: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(raw).ok_or("it is not a whole number with a unit, such as 64MiB or 1GiB")?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        other => return Err(format!("{other:?} is no unit of bytes; use B, KiB, MiB, GiB or TiB")),
    };
    number.checked_mul(factor).ok_or_else(|| "it is too large".to_owned())
}

pub(super) fn bytes(raw: &str, min: &str, max: &str) -> Result<u64, String> {
    let value = parse_bytes(raw)?;
    if (parse_bytes(min)?..=parse_bytes(max)?).contains(&value) { Ok(value) } else { Err(format!("it is not between {min} and {max}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_keep_to_their_range() {
        assert_eq!(duration("500ms", "1ms", "1h"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h", "1ms", "3h"), Ok(Duration::from_secs(7200)));
        assert!(duration("5", "1ms", "1h").unwrap_err().contains("5s"));
        assert!(duration("2h", "1ms", "1h").unwrap_err().contains("between"));
        assert!(duration("18446744073709551615d", "1ms", "1h").is_err());
    }

    #[test]
    fn bytes_are_binary_units() {
        assert_eq!(bytes("1GiB", "1B", "4GiB"), Ok(1 << 30));
        assert_eq!(bytes("4096", "1B", "4GiB"), Ok(4096));
        assert!(bytes("1GB", "1B", "4GiB").unwrap_err().contains("GiB"));
        assert!(bytes("-1", "1B", "4GiB").is_err());
    }

    #[test]
    fn members_are_numbers_with_addresses() {
        let two = BTreeMap::from([(1, "a:10912".to_owned()), (2, "b:1".to_owned())]);
        assert_eq!((members("1=a:10912, 2=b:1"), members("none")), (Ok(two), Ok(BTreeMap::new())));
        for (bad, why) in [("a:1", "form"), ("0=a:1", "between"), ("1=a", "port"), ("1=a:1;1=b:1", "twice"), (",", "empty")] {
            assert!(members(bad).is_err_and(|error| error.contains(why)), "{bad}");
        }
    }

    #[test]
    fn a_coordinator_is_etcds_endpoints_or_a_name_in_kubernetes() {
        assert_eq!(coordinator("none"), Ok(None));
        assert_eq!(coordinator("etcd://a:2379,b:2379/"), Ok(Some(CoordinatorPlace::Etcd(vec!["a:2379".to_owned(), "b:2379".to_owned()]))));
        let kubernetes = |namespace: &str, name: &str| Ok(Some(CoordinatorPlace::Kubernetes { namespace: namespace.to_owned(), name: name.to_owned() }));
        assert_eq!(coordinator("kubernetes://mq/orders-1.a"), kubernetes("mq", "orders-1.a"));
        assert_eq!(coordinator("kubernetes://mq/orders-1/"), kubernetes("mq", "orders-1"));
        for (bad, why) in [
            ("zk://a:1", "neither"),
            ("etcd://", "empty"),
            ("kubernetes://mq", "form"),
            ("kubernetes:///a", "namespace"),
            ("kubernetes://m.q/a", "namespace"),
            ("kubernetes://mq/", "form"),
            ("kubernetes://mq/a/b", "name"),
            ("kubernetes://mq/A", "name"),
            ("kubernetes://mq/a..b", "name"),
            ("kubernetes://mq/-a", "name"),
        ] {
            assert!(coordinator(bad).is_err_and(|error| error.contains(why)), "{bad}: {:?}", coordinator(bad));
        }
    }

    #[test]
    fn a_place_to_read_from_is_an_address_that_clients_can_reach_with_a_port() {
        assert_eq!((socket("none"), socket("10.0.0.2:10914")), (Ok(None), Ok(Some(SocketAddr::from(([10, 0, 0, 2], 10914))))));
        assert!(socket("[::1]:10914").is_ok());
        for bad in ["10.0.0.2", "host:1", "0.0.0.0:1", "[::]:1", "10.0.0.2:0"] {
            assert!(socket(bad).is_err(), "{bad}");
        }
        assert_eq!((auto("auto", |raw| bytes(raw, "0B", "1KiB")), auto("5", |raw| bytes(raw, "0B", "1KiB"))), (Ok(None), Ok(Some(5))));
    }

    #[test]
    fn addresses_need_a_host_and_a_port() {
        assert_eq!(addresses("a:1; b:2"), Ok(vec!["a:1".to_owned(), "b:2".to_owned()]));
        for bad in ["a", ":1", "a:0", "a:70000", ";"] {
            assert!(addresses(bad).is_err(), "{bad}");
        }
    }
}
