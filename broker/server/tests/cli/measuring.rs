use crate::harness::{Site, run};
use serde_json::json;

#[test]
fn the_cluster_and_its_brokers_are_shown() {
    let site = Site::start();
    let brokers = site.json("cluster list");
    assert_eq!((&brokers[0]["addr"], &brokers[0]["id"]), (&json!(site.broker), &json!(0)));
    assert_eq!(site.json("cluster stats")[&site.broker]["brokerActive"], "true");
    assert!(site.run("cluster stats").well().stdout.contains("brokerActive"));
}

#[test]
fn load_is_produced_drained_and_counted() {
    let site = Site::start();
    let produced = site.json("bench produce load --count 500 --queues 2 --connections 2");
    assert_eq!((&produced["messages"], &produced["error_count"]), (&json!(500), &json!(0)), "{produced}");
    let consumed = site.json("bench consume load --verify");
    assert_eq!((&consumed["messages"], &consumed["error_count"]), (&json!(500), &json!(0)), "{consumed}");
    let idle = site.json("bench idle --connections 20 --seconds 0.2");
    assert_eq!((&idle["opened"], &idle["still_open"]), (&json!(20), &json!(20)), "{idle}");
    assert!(site.run("bench produce load --seconds 0.2 --warmup 0").well().stdout.contains("throughput"));
    site.run("bench consume missing").badly(3, &["the topic missing does not exist"]);
}

#[test]
fn help_tells_the_exit_codes_and_a_completion_knows_the_subcommands() {
    for args in [&["--help"][..], &["topic", "--help"], &["produce", "--help"], &["offset", "--help"], &["bench", "--help"]] {
        let help = run(args, "").well().stdout;
        assert!(help.contains("Exit codes:") && help.contains("4  no server can be reached"), "{args:?}: {help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completion", shell], "").well().stdout.contains("offset"), "{shell}");
    }
}
