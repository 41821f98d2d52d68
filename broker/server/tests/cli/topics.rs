use crate::harness::Site;
use serde_json::json;

#[test]
fn a_topic_that_exists_is_left_as_it_is_and_updated_only_where_asked() {
    let site = Site::start();
    let created = site.json("topic create orders --queues 16 --order --message-type fifo");
    assert_eq!((&created["queues"], &created["done"], &created["brokers"]), (&json!(16), &json!("created"), &json!([site.broker])));
    site.run("topic create orders").badly(1, &["the topic orders exists already", "`sluice topic update orders`"]);
    assert_eq!(site.json("topic create orders --if-not-exists")["done"], "exists");

    let changed = site.json("topic update orders --perm r");
    assert_eq!(changed, json!({"changes": [{"broker": site.broker, "setting": "perm", "from": "rw", "to": "r"}]}));
    let shown = site.json("topic describe orders");
    assert_eq!((shown["queues"].as_array().map(Vec::len), &shown["perm"], &shown["order"]), (Some(16), &json!("r"), &json!(true)));
    assert_eq!(shown["attributes"]["message.type"], "FIFO");
    let told = site.run("topic update orders --queues 32 --order false --attribute a=b --remove-attribute message.type").well();
    for line in ["read-queues from 16 to 32", "write-queues from 16 to 32", "order from true to false", "a from - to b", "message.type from FIFO to -"] {
        assert!(told.stdout.contains(line), "{line} in {}", told.stdout);
    }
    let shown = site.json("topic describe orders");
    assert_eq!((&shown["perm"], &shown["order"], &shown["attributes"]), (&json!("r"), &json!(false), &json!({"a": "b"})));
    assert!(site.run("topic update orders --perm r").well().stdout.contains("like that already"));
    site.run("topic update orders").badly(2, &["--perm"]);
    site.run("topic update missing --perm r").badly(3, &["the topic missing does not exist", "`sluice topic create missing`"]);
}

#[test]
fn topics_are_listed_routed_and_deleted() {
    let site = Site::start();
    site.run("topic create orders").well();
    assert_eq!(site.json("topic list"), json!(["orders"]));
    assert!(site.json("topic list --all").as_array().is_some_and(|all| all.contains(&json!("TBW102"))));
    assert_eq!(site.json("topic route orders")["brokers"][0]["write_queues"], 8);
    assert!(site.run("topic route orders").well().stdout.starts_with("CLUSTER"));
    site.run("topic delete orders").badly(2, &["--yes"]);
    assert_eq!(site.json("topic delete orders --yes"), json!({"topic": "orders", "brokers": [site.broker], "done": "deleted"}));
    site.run("topic describe orders").badly(3, &["the topic orders does not exist"]);
    site.run("topic delete orders --yes").badly(3, &["the topic orders does not exist"]);
}

#[test]
fn a_topic_shrinks_only_when_nothing_unread_is_left_behind() {
    let site = Site::start();
    let queues = || site.json("topic describe t")["queues"].as_array().map(Vec::len);
    site.run("topic create t --queues 3").well();
    site.run("produce t --queue 2 --body x").well();
    site.run("topic update t --read-queues 2").badly(1, &["3 to write", "lower --write-queues first"]);
    let refused = site.run("topic update t --queues 2").badly(1, &["queue 2 of topic t", "1 messages that any group has not read", "--force"]);
    assert_eq!((refused.stdout.as_str(), queues()), ("", Some(3)));
    site.run("consume t --group readers").well();
    site.run("consume t --group slow --max 1 --no-commit").well();
    site.run("topic update t --queues 2").well();
    assert_eq!(queues(), Some(2));

    site.run("produce t --queue 1 --body x").well();
    site.run("topic update t --write-queues 1").well();
    site.run("topic update t --read-queues 1").badly(1, &["queue 1 of topic t", "group readers has not read"]);
    site.run("topic update t --read-queues 1 --force").well();
    assert_eq!(queues(), Some(1));
}
