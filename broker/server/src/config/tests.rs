use super::*;
use std::collections::HashSet;

fn load(yaml: Option<&str>, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Loaded, ConfigErrors> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = yaml.map(|text| {
        let path = dir.path().join("sluice.yaml");
        std::fs::write(&path, text).expect("writable");
        path
    });
    let flags = ConfigFlags { file, values: flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect() };
    Loaded::load_with(&flags, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

#[test]
fn every_default_is_within_its_own_range_and_every_name_is_used_once() {
    let loaded = load(None, &[], &[]).expect("the defaults are a valid configuration");
    assert_eq!(loaded.config.listen.naming_port, 9876);
    assert_eq!(loaded.config.listen.vip_port(), Some(10909));
    assert_eq!(loaded.config.storage.retention_age, Duration::from_secs(72 * 3600));
    for spelling in [|key: &Key| key.name.to_owned(), Key::variable, Key::flag] {
        assert_eq!(KEYS.iter().map(spelling).collect::<HashSet<_>>().len(), KEYS.len());
    }
}

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let yaml = "broker:\n  name: from-file\n  cluster: from-file\n  port: 1234\n";
    let loaded =
        load(Some(yaml), &[("SLUICE_BROKER_NAME", "from-env"), ("SLUICE_BROKER_CLUSTER", "from-env")], &[("broker.name", "from-flag")]).expect("valid");
    assert_eq!(loaded.config.broker.name, "from-flag");
    assert_eq!(loaded.config.broker.cluster, "from-env");
    assert_eq!(loaded.config.listen.broker_port, 1234);
    assert_eq!(loaded.config.listen.naming_port, 9876);
}

#[test]
fn all_errors_come_at_once_with_key_value_reason_and_range() {
    let yaml = "broker.prot: 1\nstorage: {flush: maybe, flush_interval: 5}\nroles: [broker, coffee]\n";
    let errors = load(Some(yaml), &[("SLUICE_HTTP_PORT", "99999"), ("SLUICE_DATADIR", "x")], &[("log.format", "xml")]).expect_err("six errors");
    let text = errors.to_string();
    assert_eq!(errors.0.len(), 7, "{text}");
    for part in [
        "did you mean broker.port?",
        "\"maybe\"",
        "5ms, 5s",
        "\"coffee\"",
        "99999",
        "did you mean SLUICE_DATA_DIR?",
        "text or json",
        "environment SLUICE_HTTP_PORT",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn variables_that_kubernetes_sets_for_a_service_stop_nothing() {
    let loaded = load(None, &[("SLUICE_SERVICE_HOST", "10.0.0.1"), ("SLUICE_PORT_9876_TCP_ADDR", "10.0.0.1")], &[]).expect("only warnings");
    assert_eq!(loaded.warnings.len(), 2);
}

#[test]
fn the_printed_configuration_reads_back_as_itself() {
    let first = load(None, &[("SLUICE_NAMING_ADDRESSES", "a:1;b:2")], &[("storage.flush", "sync")]).expect("valid");
    let second = load(Some(&first.print()), &[], &[]).expect("what is printed is valid");
    assert_eq!(first.config, second.config);
}

#[test]
fn a_lone_broker_must_know_a_name_server() {
    let errors = load(None, &[], &[("roles", "broker")]).expect_err("no name server");
    assert_eq!(errors.0[0].key, "naming.addresses");
    load(None, &[], &[("roles", "broker"), ("naming.addresses", "ns:9876")]).expect("now it does");
}

#[test]
fn two_listeners_cannot_share_a_port() {
    let errors = load(None, &[], &[("http.port", "10909")]).expect_err("the VIP port");
    assert!(errors.to_string().contains("already taken by broker.vip_port"), "{errors}");
}

#[test]
fn replicas_are_read_from_at_a_port_of_its_own_and_only_in_a_group() {
    let group = [("replication.members", "1=a:10912,2=b:10912"), ("replication.coordinator", "etcd://e:2379"), ("broker.name", "g")];
    let with = |address, group: &[(&'static str, &str)]| load(None, &[], &[group, &[("replication.read_address", address)]].concat());
    let loaded = with("127.0.0.1:10914", &group).expect("valid");
    assert_eq!((loaded.config.replication.read_address, loaded.config.replication.read_behind), ("127.0.0.1:10914".parse().ok(), None));
    assert!(with("127.0.0.1:10911", &group).expect_err("the broker's port").to_string().contains("already taken by broker.port"));
    assert!(with("127.0.0.1:10914", &[]).expect_err("no group").to_string().contains("no replicas to read from"));
}

#[test]
fn a_single_listen_address_is_also_advertised() {
    let loaded = load(None, &[], &[("listen.address", "127.0.0.1")]).expect("valid");
    assert_eq!(loaded.config.listen.advertised().to_string(), "127.0.0.1");
    assert!(load(None, &[], &[("advertise.address", "0.0.0.0")]).is_err());
}

#[test]
fn the_largest_message_fits_into_a_record_and_a_frame() {
    let loaded = load(None, &[], &[("messages.size_max", "15MiB")]).expect("allowed");
    let with_all_else = loaded.config.messages.bytes_max + MESSAGE_OVERHEAD_BYTES;
    assert!(with_all_else <= sluice_protocol::record::RECORD_BYTES_MAX && with_all_else <= sluice_protocol::FrameLimits::default().frame_bytes_max);
    let errors = load(None, &[], &[("messages.size_max", "16MiB")]).expect_err("a record of it would not fit");
    assert!(errors.to_string().contains("between 1KiB and 15MiB") && errors.to_string().contains("largest frame"), "{errors}");
}

#[test]
fn a_segment_that_does_not_hold_the_largest_message_is_refused() {
    let errors = load(None, &[], &[("storage.segment_size", "10485759B")]).expect_err("the store takes half a segment at once");
    assert!(errors.to_string().contains("storage.segment_size") && errors.to_string().contains("10485760 bytes"), "{errors}");
    load(None, &[], &[("storage.segment_size", "10MiB")]).expect("4 MiB and all that comes with it, twice");
    load(None, &[], &[("storage.segment_size", "8MiB"), ("messages.size_max", "3MiB")]).expect("the same for 3 MiB");
}

#[test]
fn every_key_is_explained() {
    let text = explain();
    assert!(KEYS.iter().all(|key| text.contains(key.name) && text.contains(&key.variable())));
}

#[test]
fn the_page_on_configuration_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let page = std::fs::read_to_string(path).expect("docs/configuration.md is there");
    assert!(page == markdown(), "docs/configuration.md differs from the table of keys; run `cargo run -- config --markdown > docs/configuration.md`");
}
