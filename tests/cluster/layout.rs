//! A layout other than the one the data was placed by is refused, saying what to do, before any key
//! is looked up on the wrong node.

use crate::harness::{Cluster, Setup, eventually, log_of_failed_start};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_not_start_where_keys_would_have_other_homes() {
    let cluster = Cluster::start(Setup::of(3)).await;
    for at in 0..20 {
        let put = cluster.at(1).put(&format!("/kv/b/k{at}?w=3")).value("v").answer().await;
        assert_eq!(put.status, 204, "{}", put.text());
    }
    for number in cluster.all() {
        let (status, _) = cluster.terminate(number).await;
        assert!(status.success());
    }
    let was = cluster.configuration(2);
    let heavier = was.replacen("zone = \"n3\"", "zone = \"n3\"\nweight = 7", 1);
    let smaller = was[..was.rfind("[[layout.nodes]]").unwrap()].to_owned();
    for changed in [heavier, smaller] {
        let changed = changed.replacen("version = 1", "version = 2", 1);
        assert_ne!(changed, was);
        cluster.configure(2, &changed);
        let said = log_of_failed_start(&cluster, 2).await;
        assert!(said.contains("the layout was changed") && said.contains("n3"), "{said}");
        assert!(said.contains("give [layout] back what it had"), "{said}");
    }
    // Renaming zones or another version moves nothing, if all nodes have the same ones.
    for number in cluster.all() {
        let before = if number == 2 { was.clone() } else { cluster.configuration(number) };
        let changed = before.replace("zone = \"", "zone = \"room-");
        cluster.configure(number, &changed.replacen("version = 1", "version = 5", 1));
        cluster.launch(number);
    }
    cluster.wait_all_up().await;
    for at in 0..20 {
        let read = cluster.at(2).get(&format!("/kv/b/k{at}?r=1")).answer().await;
        assert_eq!(read.status, 200, "{}", read.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_can_be_mended_until_the_cluster_is_formed() {
    let cluster = Cluster::start_unformed(Setup::of(3)).await;
    let right = cluster.configuration(1);
    for number in cluster.all() {
        cluster.kill(number);
        let was = cluster.configuration(number);
        let wrong = was.replacen("zone = \"n3\"", "zone = \"n3\"\nweight = 7", 1);
        cluster.configure(number, &wrong);
        cluster.launch(number);
    }
    let wrong = async || {
        let cluster = cluster.at(1).get("/ring").try_answer().await.ok()?;
        cluster.text().contains("\"weight\":7").then_some(())
    };
    eventually("the wrong layout is in force", wrong).await;
    for number in cluster.all() {
        cluster.kill(number);
        let was = cluster.configuration(number);
        cluster.configure(number, &was.replacen("\nweight = 7", "", 1));
        cluster.launch(number);
    }
    assert_eq!(cluster.configuration(1), right);
    cluster.form();
    cluster.wait_all_up().await;
}
