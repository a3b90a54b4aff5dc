//! Calls that manage exchanges, also those whose answers get lost.

use jangada_client::{
    Admin, Binding, BindingDestination, CameBy, ClientError, ExchangeKind, HeaderMatch, MatchMode, NewExchange, Reason,
};
use tonic::Status;

use crate::fake::Cluster;

fn lost() -> Status {
    Status::unavailable("the connection broke")
}

fn topic(name: &str) -> NewExchange {
    NewExchange::new(name, ExchangeKind::Topic)
}

async fn admin(cluster: &Cluster) -> Admin {
    cluster.client().await.admin()
}

#[tokio::test]
async fn exchanges_are_created_bound_shown_and_deleted() {
    let cluster = Cluster::start(2);
    let admin = admin(&cluster).await;
    let wanted = NewExchange {
        alternate: Some("rest".to_owned()),
        is_internal: true,
        ..topic("e")
    };
    assert!(admin.create_exchange(wanted.clone()).await.expect("created").created);
    let again = admin.create_exchange(wanted.clone()).await.expect_err("it exists");
    assert_eq!(again.reason(), Some(Reason::ExchangeExists));
    let again = NewExchange {
        if_not_exists: true,
        ..wanted
    };
    assert!(!admin.create_exchange(again).await.expect("it is there").created);
    let asked = HeaderMatch::new(MatchMode::AnyWithX)
        .with_header("a", "1")
        .with_name("x-b");
    let bindings = vec![
        Binding::to_queue("q").with_key("a.*"),
        Binding::to_exchange("f").with_headers(asked),
    ];
    admin.bind("e", bindings.clone()).await.expect("bound");
    let described = admin.describe_exchange("e").await.expect("it is there");
    assert_eq!(described.bindings, bindings);
    let listed = admin.list_exchanges().await.expect("they are there");
    assert_eq!(listed, std::slice::from_ref(&described.exchange));
    let exchange = described.exchange;
    assert_eq!((exchange.kind, exchange.bindings), (ExchangeKind::Topic, 2));
    assert_eq!(
        (exchange.alternate.as_deref(), exchange.is_internal),
        (Some("rest"), true)
    );
    let error = admin.delete_exchange("e", true).await.expect_err("it has bindings");
    assert_eq!(error.reason(), Some(Reason::ExchangeInUse));
    admin.unbind("e", bindings).await.expect("unbound");
    admin.delete_exchange("e", true).await.expect("deleted");
    for error in [
        admin.delete_exchange("e", false).await.expect_err("it is gone"),
        admin.describe_exchange("e").await.expect_err("it is gone"),
        admin
            .trace_message("e", "a", &[])
            .await
            .map(drop)
            .expect_err("it is gone"),
    ] {
        assert!(
            matches!(&error, ClientError::UnknownExchange { exchange } if **exchange == *"e"),
            "{error}"
        );
        assert!(error.is_definite());
    }
}

#[tokio::test]
async fn an_exchange_of_ours_whose_answer_got_lost_counts_as_created() {
    let cluster = Cluster::start(2);
    let admin = admin(&cluster).await;
    cluster.state().exchanges.admin_faults.push_back((true, lost()));
    assert!(admin.create_exchange(topic("e")).await.expect("created").created);
    // One that is as asked for, but may have been there before, is not said to be new.
    cluster.state().exchanges.admin_faults.push_back((false, lost()));
    let again = NewExchange {
        if_not_exists: true,
        ..topic("e")
    };
    assert!(!admin.create_exchange(again).await.expect("it is there").created);
    cluster.state().exchanges.admin_faults.push_back((false, lost()));
    let other = NewExchange::new("e", ExchangeKind::Fanout);
    let error = admin.create_exchange(other).await.expect_err("it is another one");
    assert_eq!(error.reason(), Some(Reason::ExchangeExists));
}

#[tokio::test]
async fn a_deletion_whose_answer_got_lost_counts_also_when_the_last_binding_took_the_exchange_along() {
    let cluster = Cluster::start(1);
    let admin = admin(&cluster).await;
    admin.create_exchange(topic("e")).await.expect("created");
    cluster.state().exchanges.admin_faults.push_back((true, lost()));
    admin.delete_exchange("e", false).await.expect("deleted");
    let wanted = NewExchange {
        auto_delete: true,
        ..topic("e")
    };
    admin.create_exchange(wanted).await.expect("created");
    let bindings = vec![Binding::to_queue("q")];
    admin.bind("e", bindings.clone()).await.expect("bound");
    cluster.state().exchanges.admin_faults.push_back((true, lost()));
    admin.unbind("e", bindings.clone()).await.expect("unbound");
    let error = admin.unbind("e", bindings).await.expect_err("the exchange is gone");
    assert_eq!(error.reason(), Some(Reason::UnknownExchange));
}

#[tokio::test]
async fn an_exchange_with_more_bindings_than_an_answer_shows_has_them_all() {
    let cluster = Cluster::start(2);
    let admin = admin(&cluster).await;
    admin.create_exchange(topic("e")).await.expect("created");
    let bindings: Vec<Binding> = (0..10).map(|number| Binding::to_queue(format!("q-{number}"))).collect();
    admin.bind("e", bindings.clone()).await.expect("bound");
    for page in [3, 5, 10] {
        cluster.state().exchanges.page = Some(page);
        let described = admin.describe_exchange("e").await.expect("it is there");
        assert_eq!(described.bindings, bindings, "by {page}");
    }
    cluster.state().exchanges.page = Some(0);
    let described = admin.describe_exchange("e").await.expect("it ends");
    assert_eq!(described.bindings, []);
}

#[tokio::test]
async fn a_trace_says_which_way_a_message_goes() {
    let cluster = Cluster::start(1);
    let admin = admin(&cluster).await;
    admin.create_exchange(topic("e")).await.expect("created");
    let bindings = vec![Binding::to_queue("q").with_key("a")];
    admin.bind("e", bindings.clone()).await.expect("bound");
    cluster
        .state()
        .exchanges
        .routes
        .insert("a".to_owned(), vec!["q".to_owned()]);
    let trace = admin.trace_message("e", "a", &[]).await.expect("it is there");
    assert_eq!(trace.queues, ["q"]);
    let ways: Vec<_> = trace.hops.iter().map(|hop| hop.came_by).collect();
    assert_eq!(ways, [CameBy::Published, CameBy::AlternateOf(0)]);
    assert_eq!(trace.hops[0].matched, bindings);
    assert_eq!(trace.hops[0].missing_alternate, None);
    assert_eq!(trace.hops[1].missing_alternate.as_deref(), Some("gone"));
    let to = BindingDestination::Queue("q".to_owned());
    assert_eq!(trace.hops[0].matched[0].destination, to);
}
