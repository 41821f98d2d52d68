//! The coordinator in Kubernetes, against a real API server: hung, killed, set back, behind a wire that loses answers, and with too few permissions.
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

#[path = "../contract/mod.rs"]
mod contract;

use contract::{
    SOON, Ways, done, elect, first, made, touch,
    wire::{Loses, Wire},
};
use http::Method;
use serde_json::{Value, json};
use sluice_apiserver::ApiServer;
use sluice_group::coordinator::{Access, Coordinator, CoordinatorError, KubernetesCoordinator, Lease, Swapped};
use sluice_replication::{Epoch, MemberId, Version};
use std::{
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// What is waited for where there is no answer.
const SHORT: Duration = Duration::from_secs(1);
/// What a call may take beyond its deadline, on a machine that others use too.
const SLACK: Duration = Duration::from_secs(2);
const NAME: &str = "orders-1";

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"));
/// For tests that leave it as it is; each has a namespace of its own. A start costs seconds.
static SHARED: LazyLock<Option<ApiServer>> = LazyLock::new(ApiServer::start);
/// For tests that stop it, one after another.
static OWN: LazyLock<Option<Mutex<ApiServer>>> = LazyLock::new(|| ApiServer::start().map(Mutex::new));

fn own() -> Option<MutexGuard<'static, ApiServer>> {
    // After a test that has failed the next one is to say for itself what it finds.
    OWN.as_ref().map(|server| server.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn by(kubeconfig: PathBuf, namespace: &str) -> KubernetesCoordinator {
    KubernetesCoordinator::new(RUNTIME.handle().clone(), &Access::File(kubeconfig), namespace, NAME, "c", "g").expect("a way to the API server")
}

fn coordinator(server: &ApiServer, namespace: &str) -> KubernetesCoordinator {
    by(server.kubeconfig("admin", server.port), namespace)
}

fn ways() -> Option<Ways> {
    let server = SHARED.as_ref()?;
    let namespace = server.namespace();
    Some(Ways([(); 2].map(|()| Arc::new(coordinator(server, &namespace)) as Arc<dyn Coordinator>), Box::new(())))
}

contract::tests!(ways);

fn lease(epoch: u64, renewal: u64) -> Lease {
    Lease { epoch: Epoch(epoch), master: MemberId(0), renewal }
}

fn path(namespace: &str) -> String {
    format!("/apis/mq.sluice.io/v1alpha1/namespaces/{namespace}/brokergroups/{NAME}")
}

fn brokergroup(cluster: &str, group: &str) -> Value {
    json!({ "apiVersion": "mq.sluice.io/v1alpha1", "kind": "BrokerGroup", "metadata": { "name": NAME }, "spec": { "cluster": cluster, "group": group } })
}

fn create(server: &ApiServer, namespace: &str, body: &Value) {
    server.ask(Method::POST, path(namespace).trim_end_matches(&format!("/{NAME}")), body).expect("made");
}

#[track_caller]
fn assert_away<T: std::fmt::Debug>(call: impl FnOnce() -> Result<T, CoordinatorError>) {
    let start = Instant::now();
    let answer = call();
    assert!(matches!(answer, Err(CoordinatorError::Away { .. })), "{answer:?}");
    assert!(start.elapsed() < SHORT + SLACK, "it took {:?}", start.elapsed());
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, CoordinatorError>, words: &[&str]) {
    let Err(error @ CoordinatorError::Refused { .. }) = &answer else { panic!("not refused: {answer:?}") };
    let error = error.to_string();
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
}

#[track_caller]
fn assert_damaged<T: std::fmt::Debug>(answer: Result<T, CoordinatorError>, words: &str) {
    let Err(CoordinatorError::Damaged { why, .. }) = &answer else { panic!("not damaged: {answer:?}") };
    assert!(why.contains(words), "{why}");
}

#[test]
fn a_swap_whose_answer_is_lost_is_unknown_and_what_comes_of_it_is_read() {
    let Some(server) = &*SHARED else { return };
    let namespace = server.namespace();
    let direct = coordinator(server, &namespace);
    let wire = Wire::to(server.port);
    let mut now = made(&direct);
    for (loses, arrives) in [(Loses::Answers, true), (Loses::AnswersAndItself, true), (Loses::Requests, false)] {
        let coordinator = by(server.kubeconfig("admin", wire.port), &namespace);
        assert_eq!(coordinator.read(SOON), Ok(Some(now.clone())));
        wire.loses(loses);
        assert_away(|| coordinator.swap(Some(&now.version), &touch(&now), SHORT));
        wire.loses(Loses::Nothing);
        let after = coordinator.read(SOON).expect("it answers").expect("it is there");
        assert_eq!(after.state, if arrives { touch(&now) } else { now.state }, "{loses:?}");
        now = done(coordinator.swap(Some(&after.version), &touch(&after), SOON));
    }
}

/// An API server that answers everything with that code; its port, and how often it was asked.
fn that_answers(code: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = asked.clone();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut bytes = [0; 65_536];
            if client.read(&mut bytes).is_ok_and(|count| count > 0) {
                counts.fetch_add(1, Ordering::SeqCst);
                let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "a word of the server's", "code": code }).to_string();
                let _ =
                    write!(client, "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            }
        }
    });
    (port, asked)
}

#[test]
fn a_swap_whose_answer_does_not_say_what_has_come_of_it_is_unknown_and_never_sent_twice() {
    let folder = tempfile::tempdir().expect("a directory");
    for code in [429, 500, 503, 504] {
        let (port, asked) = that_answers(code);
        let file = folder.path().join(code.to_string());
        let clusters = json!([{ "name": "c", "cluster": { "server": format!("http://127.0.0.1:{port}") } }]);
        let contexts = json!([{ "name": "x", "context": { "cluster": "c", "user": "u" } }]);
        let config = json!({ "clusters": clusters, "users": [{ "name": "u", "user": { "token": "t" } }], "contexts": contexts, "current-context": "x" });
        std::fs::write(&file, config.to_string()).expect("written");
        let coordinator = by(file, "n");
        let answer = coordinator.swap(Some(&Version("u 7 {}".into())), &first(), SOON);
        let Err(CoordinatorError::Away { why, .. }) = &answer else { panic!("{answer:?}") };
        assert!(why.contains(&code.to_string()) && why.contains("a word of the server's"), "{why}");
        assert_eq!(asked.load(Ordering::SeqCst), 1, "{code}");
    }
}

#[test]
fn a_change_that_rests_on_another_text_of_the_same_resource_version_is_refused() {
    let Some(server) = &*SHARED else { return };
    let coordinator = coordinator(server, &server.namespace());
    let made = made(&coordinator);
    let mut parts = made.version.0.splitn(3, ' ');
    let (uid, revision, text) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let other = text.replacen("\"master\":0", "\"master\":1", 1);
    assert_ne!(other, text);
    for version in [format!("{uid} {revision} {other}"), format!("{uid} 1{revision} {text}"), format!("x{uid} {revision} {text}")] {
        assert_eq!(coordinator.swap(Some(&Version(version)), &touch(&made), SOON), Ok(Swapped::Other(Some(made.clone()))));
    }
    done(coordinator.swap(Some(&made.version), &touch(&made), SOON));
}

#[test]
fn a_deleted_object_is_none_and_what_rests_on_it_is_refused_also_when_it_was_made_again() {
    let Some(server) = &*SHARED else { return };
    let namespace = server.namespace();
    let coordinator = coordinator(server, &namespace);
    let lost = made(&coordinator);
    coordinator.renew(lease(1, 1), SOON).expect("renewed");
    server.ask(Method::DELETE, &path(&namespace), &Value::Null).expect("deleted");
    assert_eq!(coordinator.read(SOON), Ok(None));
    assert_eq!(coordinator.swap(Some(&lost.version), &touch(&lost), SOON), Ok(Swapped::Other(None)));
    assert_eq!(coordinator.renew(lease(1, 2), SOON), Ok(None));
    assert_eq!(coordinator.lease(SOON), Ok(Some(lease(1, 1))));
    create(server, &namespace, &brokergroup("c", "g"));
    assert_eq!(coordinator.swap(Some(&lost.version), &touch(&lost), SOON), Ok(Swapped::Other(None)));
    let again = made(&coordinator);
    assert_eq!(again.state, lost.state);
    assert_eq!(coordinator.swap(Some(&lost.version), &touch(&lost), SOON), Ok(Swapped::Other(Some(again.clone()))));
    assert_eq!(coordinator.renew(lease(1, 3), SOON), Ok(Some(again)));
}

#[test]
fn another_groups_object_and_somebody_elses_lease_are_never_taken_for_ones_own() {
    let Some(server) = &*SHARED else { return };
    let namespace = server.namespace();
    create(server, &namespace, &brokergroup("c", "other"));
    let one = coordinator(server, &namespace);
    assert_damaged(one.read(SOON), "\"other\"");
    assert_damaged(one.swap(None, &first(), SOON), "replication.coordinator");
    assert_damaged(one.renew(lease(1, 1), SOON), "\"other\"");
    let namespace = server.namespace();
    let other = json!({ "metadata": { "name": NAME }, "spec": { "holderIdentity": "somebody" } });
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    server.ask(Method::POST, &leases, &other).expect("made");
    let one = coordinator(server, &namespace);
    made(&one);
    assert_damaged(one.renew(lease(1, 1), SOON), "is not the group's");
    assert_damaged(one.lease(SOON), "is not the group's");
    assert_eq!(server.ask(Method::GET, &format!("{leases}/{NAME}"), &Value::Null).expect("there")["spec"]["holderIdentity"], "somebody");
}

#[test]
fn the_api_server_takes_nothing_that_no_group_does() {
    let Some(server) = &*SHARED else { return };
    let namespace = server.namespace();
    let coordinator = coordinator(server, &namespace);
    let made = made(&coordinator);
    let now = done(coordinator.swap(Some(&made.version), &elect(&made, 1), SOON));
    let status = format!("{}/status", path(&namespace));
    let set = |member: u32| json!([{ "id": member, "store": "0".repeat(32) }]);
    for (change, words) in [
        (json!({ "epoch": 1, "revision": 9, "since": 1, "master": 0 }), "never taken back"),
        (json!({ "unclean": 1 }), "a revision of its own"),
        (json!({ "revision": 1 }), "a revision of its own"),
        (json!({ "revision": 9, "master": 2 }), "an epoch has one master"),
        (json!({ "revision": 9, "since": 3 }), "an epoch has one master"),
        (json!({ "revision": 9, "inSync": set(5) }), "one of the in-sync set"),
        (json!({ "epoch": 9, "revision": 9, "since": 10 }), "a revision that there has been"),
        (json!({ "revision": 9, "inSync": [] }), "inSync"),
        (json!({ "revision": 9, "inSync": [{ "id": 1, "store": "f" }] }), "store"),
        (json!({ "revision": null }), "revision"),
        (Value::Null, "never taken away"),
    ] {
        let (code, said) = server.merge(&status, &json!({ "status": change })).expect_err("refused");
        assert!(code == 422 && said.contains(words), "{change}: {code} {said}");
    }
    assert!(server.merge(&path(&namespace), &json!({ "spec": { "group": "h" } })).is_err_and(|(_, said)| said.contains("never changes")));
    assert_eq!(coordinator.read(SOON), Ok(Some(now.clone())));
    // What a person writes by hand to repair a group is taken.
    server.merge(&status, &json!({ "status": { "epoch": 9, "revision": 9, "since": 9, "master": 2, "unclean": 1 } })).expect("taken");
    let repaired = coordinator.read(SOON).expect("it answers").expect("it is there");
    assert_eq!((repaired.state.epoch, repaired.state.master, repaired.state.unclean), (Epoch(9), MemberId(2), 1));
    done(coordinator.swap(Some(&repaired.version), &touch(&repaired), SOON));
    // What `kubectl get bg` shows.
    let table = server.table(&path(&namespace));
    let names: Vec<_> = table["columnDefinitions"].as_array().into_iter().flatten().filter_map(|column| column["name"].as_str()).collect();
    assert_eq!(names, ["Name", "Master", "Epoch", "InSync", "Age"]);
    assert_eq!(table["rows"][0]["cells"].as_array().map(|cells| cells[..4].to_vec()), json!([NAME, 2, 9, "0,1,2,3,4,5,6,7"]).as_array().cloned());
}

#[test]
fn without_a_permission_the_error_names_the_verb_and_the_resource() {
    let Some(server) = &*SHARED else { return };
    let namespace = server.namespace();
    let broker = || by(server.kubeconfig("broker", server.port), &namespace);
    let may = |rules: &[(&str, &str, &str)]| {
        let rule = |(group, resource, verb): &(&str, &str, &str)| json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] });
        server.grant(&namespace, &rules.iter().map(rule).collect::<Value>());
    };
    let (ours, leases) = ("mq.sluice.io", "coordination.k8s.io");
    assert_refused(by(server.kubeconfig("stranger", server.port), &namespace).read(SOON), &["does not know who this broker is"]);
    assert_refused(broker().read(SOON), &["may not get brokergroups in the namespace", &namespace, "docs/replication.md"]);
    let mut rules = vec![(ours, "brokergroups", "get")];
    may(&rules);
    let one = broker();
    assert_eq!(one.read(SOON), Ok(None));
    assert_refused(one.swap(None, &first(), SOON), &["there is no BrokerGroup orders-1", "kubectl apply", "\"c\"", "\"g\""]);
    assert_refused(one.read(SOON), &["there is no BrokerGroup orders-1"]);
    // Somebody else makes it: it goes on at once.
    create(server, &namespace, &brokergroup("c", "g"));
    assert_eq!(one.read(SOON), Ok(None));
    assert_refused(one.swap(None, &first(), SOON), &["may not patch brokergroups/status"]);
    rules.push((ours, "brokergroups/status", "patch"));
    may(&rules);
    made(&one);
    for verb in ["get", "create", "update"] {
        assert_refused(one.renew(lease(1, 1), SOON), &[&format!("may not {verb} leases")]);
        rules.push((leases, "leases", verb));
        may(&rules);
        if verb == "create" {
            one.renew(lease(1, 1), SOON).expect("made");
        }
    }
    one.renew(lease(1, 2), SOON).expect("renewed");
}

#[test]
fn the_role_in_the_document_is_all_that_a_broker_needs() {
    let Some(server) = &*SHARED else { return };
    let namespace = server.namespace();
    server.grant_what_the_document_says(&namespace);
    let one = by(server.kubeconfig("broker", server.port), &namespace);
    let now = made(&one);
    one.renew(lease(1, 1), SOON).expect("made");
    one.renew(lease(1, 2), SOON).expect("renewed");
    done(one.swap(Some(&now.version), &elect(&now, 1), SOON));
    assert_eq!(one.lease(SOON), Ok(Some(lease(1, 2))));
}

#[test]
fn without_its_namespace_or_the_custom_resource_the_error_says_what_to_install() {
    let Some(server) = own() else { return };
    assert_refused(coordinator(&server, "nowhere").swap(None, &first(), SOON), &["there is no namespace nowhere"]);
    let namespace = server.namespace();
    let one = coordinator(&server, &namespace);
    assert_eq!(one.read(SOON), Ok(None));
    server.uninstall();
    assert_refused(one.read(SOON), &["knows no brokergroups", "kubectl apply -f crds/"]);
    assert_refused(one.swap(None, &first(), SOON), &["knows no brokergroups"]);
    server.install();
    made(&one);
}

#[test]
fn an_api_server_that_hangs_or_is_not_there_is_away_at_the_deadline_and_back_when_it_goes_on() {
    let Some(mut server) = own() else { return };
    let one = coordinator(&server, &server.namespace());
    let mut now = made(&one);
    for is_killed in [false, true] {
        if is_killed {
            server.kill_server()
        } else {
            server.signal("STOP")
        }
        assert_away(|| one.swap(Some(&now.version), &touch(&now), SHORT));
        assert_away(|| one.read(SHORT));
        assert_away(|| one.renew(lease(1, 1), SHORT));
        assert_away(|| one.lease(SHORT));
        if is_killed {
            server.start_server()
        } else {
            server.signal("CONT")
        }
        let begun = Instant::now();
        let read = loop {
            match one.read(SOON) {
                Ok(found) => break found.expect("it is there"),
                Err(error) => assert!(begun.elapsed() < SOON, "{error}"),
            }
        };
        assert!(read == now || read.state == touch(&now), "{read:?}");
        // The swap that was given up may arrive at last.
        now = match one.swap(Some(&read.version), &touch(&read), SOON).expect("it answers") {
            Swapped::Done(now) => now,
            Swapped::Other(late) => late.expect("it is there"),
        };
    }
    assert!(one.describe().starts_with("kubernetes://test-") && one.describe().ends_with("/orders-1"), "{}", one.describe());
}

#[test]
fn a_swap_that_rests_on_what_a_set_back_api_server_has_lost_is_refused() {
    let Some(mut server) = own() else { return };
    let one = coordinator(&server, &server.namespace());
    let old = made(&one);
    server.save();
    let lost = done(one.swap(Some(&old.version), &elect(&old, 1), SOON));
    server.restore();
    assert_eq!(one.swap(Some(&lost.version), &elect(&lost, 2), SOON), Ok(Swapped::Other(Some(old.clone()))));
    // It counts on from there.
    let branch = done(one.swap(Some(&old.version), &elect(&old, 3), SOON));
    assert_ne!(branch.version, lost.version);
    assert_eq!(one.swap(Some(&lost.version), &elect(&lost, 2), SOON), Ok(Swapped::Other(Some(branch.clone()))));
    let lost_lease = Lease { epoch: lost.state.epoch, master: MemberId(1), renewal: 1 };
    assert_eq!(one.renew(lost_lease, SOON), Ok(Some(branch)));
}
