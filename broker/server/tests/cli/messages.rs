use crate::harness::Site;
use serde_json::{Value, json};

#[test]
fn each_way_to_produce_says_what_was_stored() {
    let site = Site::start();
    let receipt = site.json("produce t --body hello --key k1 --tag a --property color=red --queue 2");
    assert_eq!((&receipt["status"], &receipt["queue_id"], &receipt["queue_offset"]), (&json!("stored"), &json!(2), &json!(0)));
    assert!(site.run("produce t --body again").well().stdout.starts_with("stored "));

    let one = site.run_with("produce t --output json", "x\n").well().json();
    assert_eq!((&one["sent"], &one["bytes"], &one["flush_timeout"]), (&json!(1), &json!(1), &json!(0)));
    assert!(site.run_with("produce t", "x\n").well().stdout.starts_with("stored 1 message, 1 bytes, in "));
    let file = site.dir.path().join("lines");
    std::fs::write(&file, "one\ntwo\n\nthree\r\n").expect("written");
    let from_file = site.json(&format!("produce t --batch 2 --in-flight 4 --file {}", file.display()));
    assert_eq!((&from_file["sent"], &from_file["bytes"]), (&json!(3), &json!(11)));
    assert_eq!(site.run_with("produce t --output json", "").well().json()["sent"], 0);

    let receipts = site.run_with("produce t --receipts --output json", "x\ny\n").well();
    assert_eq!(receipts.json_lines().len(), 2);
    assert!(receipts.stderr.contains("stored 2 messages"), "{}", receipts.stderr);
    site.run("produce t --file /nowhere/at/all").badly(1, &["/nowhere/at/all cannot be opened"]);
    site.run("produce t --queue 99 --body x").badly(3, &["no queue to write with number 99"]);
    site.run("produce t --delay-level 19 --body x").badly(2, &["--delay-level"]);
}

#[test]
fn the_answer_to_the_largest_batch_is_read() {
    let site = Site::start();
    let lines = "x\n".repeat(4096);
    assert_eq!(site.run_with("produce t --batch 4096 --output json", &lines).well().json()["sent"], 4096);
}

#[test]
fn what_was_stored_before_a_failure_is_counted() {
    let site = Site::start();
    let broken = format!("one\ntwo\n{}\n", "x".repeat(4 * 1024 * 1024 + 1));
    let ran = site.run_with("produce t --in-flight 8 --output json", &broken).badly(2, &["line 3 has more than 4194304 bytes"]);
    assert_eq!(ran.json()["sent"], 2);
}

#[test]
fn messages_come_out_as_they_went_in() {
    let site = Site::start();
    site.run_with("produce t --queue 1 --tag a --key k1", "one\ntwo\n").well();
    site.run("produce t --queue 1 --tag b --body three").well();
    let bodies = |line: &str| site.run(line).well().stdout;
    assert_eq!(bodies("consume t --group all --max 2"), "one\ntwo\n");
    assert_eq!(bodies("consume t --group all"), "three\n");
    let none = site.run("consume t --group all").well();
    assert_eq!(none.stdout, "");
    assert!(none.stderr.contains("nothing to consume") && none.stderr.contains("--from earliest"), "{}", none.stderr);
    assert_eq!(bodies("consume t --group all --from earliest --tag b"), "three\n");
    assert_eq!(bodies("consume t --group other --no-commit --meta --max 1"), "1\t0\ta\tk1\tone\n");
    assert_eq!(bodies("consume t --group other --from latest"), "");
    let lines = site.run("consume t --group json --output json").well().json_lines();
    let of = |key: &str| lines.iter().map(|line| line[key].clone()).collect::<Vec<Value>>();
    assert_eq!((of("body"), of("queue_offset")), (vec![json!("one"), json!("two"), json!("three")], vec![json!(0), json!(1), json!(2)]));
    site.run("consume missing --group all").badly(3, &["the topic missing does not exist", "`sluice topic create missing`"]);
}

#[test]
fn a_message_is_found_by_each_of_its_names() {
    let site = Site::start();
    let receipt = site.json("produce t --body hello --key k1");
    let name = |field: &str| receipt[field].as_str().expect("text").to_owned();
    let found = [
        site.json("query key t k1")[0].clone(),
        site.json(&format!("query unique t {}", name("unique_id")))[0].clone(),
        site.json(&format!("query id {}", name("offset_id")))[0].clone(),
    ];
    assert!(found.iter().all(|m| m["body"] == "hello" && m["properties"]["KEYS"] == "k1"), "{found:?}");
    assert!(site.run("query key t k1").well().stdout.ends_with("\nhello\n\n"));
    site.run("query key t k2").badly(3, &["no message has key \"k2\" in topic t"]);
    site.run("query id nonsense").badly(2, &["\"nonsense\" is no offset message id"]);
    site.run("query key t k1 --begin yesterday").badly(2, &["is no time"]);
}

#[test]
fn a_topic_without_permission_is_told_with_the_way_to_give_it() {
    let site = Site::start();
    site.run("topic create t --perm r").well();
    site.run("produce t --body x").badly(1, &["the topic t has no queue to write", "`sluice topic update t`"]);
    site.run("topic update t --perm w").well();
    site.run("consume t --group g").badly(1, &["the topic t has no queue to read", "`sluice topic update t`"]);
}
