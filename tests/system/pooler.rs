//! Behind PgBouncer: session mode works, every other mode is refused at the start, and what may go past it does.

use countersign_tests::stack::Stack;
use countersign_tests::stack::pgbouncer::{PgBouncer, PoolMode, is_installed};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};

use crate::databases::{connect, empty, migrated};
use crate::facts::{SOON, attempts, has_one_certificate_each, names, pending_domains};
use crate::schema::{Programs, service};

const REFUSED: &str = "a pooler in transaction mode";
/// The pooler gives its connections to Postgres out in turn, and not the last used one first.
const IN_TURN: &str = "server_round_robin = 1";

#[tokio::test]
#[ignore = "needs PgBouncer: make test-all"]
async fn behind_pgbouncer_in_session_mode_orders_are_issued_and_notifications_arrive() {
    if !is_installed() {
        return;
    }
    let stack = Stack::builder().workers(2).responders(1).pgbouncer().setting("POLL_TIMEOUT", "5m").start().await;
    let options: PgConnectOptions = stack.pgbouncer().url().parse().unwrap();
    let pool = PgPoolOptions::new().connect_lazy_with(options.extra_float_digits(None));
    let mut listener = PgListener::connect_with(&pool).await.unwrap();
    listener.listen("countersign_orders").await.unwrap();
    let domains = pending_domains(&stack, &names(3)).await;
    for (_, order) in &domains {
        let told = tokio::time::timeout(SOON, listener.recv()).await.expect("a notification arrives").unwrap();
        assert_eq!(told.payload(), order.order_id);
    }
    let (last, others) = domains.split_last().unwrap();
    for (domain, order) in others {
        stack.publish_value(order).await;
        stack.becomes_active(&domain.id).await;
    }

    // A pooler that is replaced is an outage, and nothing more.
    stack.pgbouncer().kill();
    stack.publish_value(&last.1).await;
    stack.pgbouncer().start_again().await.unwrap();
    stack.becomes_active(&last.0.id).await;
    has_one_certificate_each(&stack, &domains).await;
    assert_eq!(attempts(&stack).await.unwrap(), 0);
    let listeners =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'";
    let all_listen = async || {
        let count: i64 = sqlx::query_scalar(listeners).fetch_one(stack.pool()).await.unwrap();
        (count == 4).then_some(())
    };
    stack.wait_until("API, workers and name server listen again", SOON, all_listen).await;
}

#[tokio::test]
#[ignore = "needs PgBouncer: make test-all"]
async fn every_program_refuses_a_pooler_that_gives_away_its_sessions() {
    if !is_installed() {
        return;
    }
    let direct = migrated().await;
    // With as many idle connections to Postgres as there will be of ours, and more; given out in turn, with exactly as many.
    let more = "min_pool_size = 5";
    for (number, (mode, options)) in [
        (PoolMode::Transaction, more.to_owned()),
        (PoolMode::Transaction, format!("{IN_TURN}\n{more}")),
        (PoolMode::Transaction, format!("{IN_TURN}\nmin_pool_size = 3\ndefault_pool_size = 3")),
        (PoolMode::Statement, more.to_owned()),
    ]
    .iter()
    .enumerate()
    {
        let pooler = PgBouncer::start(&direct, *mode, options).await.unwrap();
        let programs = Programs::new();
        let (mut settings, _) = service(pooler.url());
        settings.push(("CHALLENGE_ZONE", "acme.example".to_owned()));
        settings.push(("DNS_ADDR", "127.0.0.1:0".to_owned()));
        for program in ["countersign-api", "countersign-worker", "countersign-dns"] {
            let name = format!("{program}-{number}");
            programs.start(&name, program, &[], &settings);
            let (status, said) = programs.ended(&name).await;
            assert_eq!(status.code(), Some(1), "{mode:?} {options}: {said}");
            assert!(said.contains(REFUSED) && said.contains("pool_mode = session"), "{mode:?} {options}: {said}");
            assert!(said.lines().last().unwrap().contains(&format!("{program} ends: ")), "{said}");
        }
        for (name, arguments) in [("migrate", &["migrate"][..]), ("stats", &["jobs", "stats"])] {
            let settings = [("DATABASE_URL", pooler.url().to_owned())];
            let (code, said) = programs.ctl(name, arguments, &settings).await;
            assert_eq!(code, Some(1), "{mode:?} {options}: {said}");
            assert!(said.contains(REFUSED), "{mode:?} {options}: {said}");
        }
    }
}

#[tokio::test]
#[ignore = "needs PgBouncer: make test-all"]
async fn migrations_take_the_direct_way() {
    if !is_installed() {
        return;
    }
    let direct = empty().await;
    let pooler = PgBouncer::start(&direct, PoolMode::Transaction, "").await.unwrap();
    let programs = Programs::new();
    let settings = [("DATABASE_URL", pooler.url().to_owned()), ("DATABASE_DIRECT_URL", direct.clone())];
    let (code, said) = programs.ctl("migrate", &["migrate"], &settings).await;
    assert_eq!(code, Some(0), "{said}");
    countersign_shared::store::schema::check(&mut connect(&direct).await).await.unwrap();
    let file = programs.file("direct", &format!("{direct}\n"));
    let settings = [("DATABASE_URL", pooler.url().to_owned()), ("DATABASE_DIRECT_URL_FILE", file)];
    let (code, said) = programs.ctl("migrate-2", &["migrate"], &settings).await;
    assert_eq!(code, Some(0), "{said}");
}

/// No pooler is needed to see which way is taken.
#[tokio::test]
async fn listening_takes_the_direct_way_and_everything_else_does_not() {
    let mut stack = Stack::builder().responders(1).postgres_front().start().await;
    for replica in ["api-1", "worker-1", "dns-1"] {
        let direct = format!("{}?application_name={replica}", stack.database_url());
        stack.restart_with(replica, "DATABASE_DIRECT_URL", direct).await;
    }
    let direct = "SELECT application_name || ' ' || query FROM pg_stat_activity
                  WHERE datname = current_database() AND application_name <> '' ORDER BY 1";
    let expected = [("api-1", "orders"), ("dns-1", "challenges"), ("worker-1", "jobs")]
        .map(|(name, channel)| format!("{name} LISTEN \"countersign_{channel}\""));
    let listens = async || {
        let found: Vec<String> = sqlx::query_scalar(direct).fetch_all(stack.pool()).await.unwrap();
        (found == expected).then_some(())
    };
    stack.wait_until("each listens by one direct connection", SOON, listens).await;
    stack.active_domain("shop.example.com").await;
    assert!(stack.postgres_front().accepted() > 3, "nothing else goes directly");
    let said = stack.log("worker-1");
    assert!(!said.contains("not listening for notifications"), "{said}");
}

#[tokio::test]
async fn a_direct_address_that_cannot_be_understood_ends_the_start() {
    let programs = Programs::new();
    let (mut settings, _) = service(&migrated().await);
    settings.push(("DATABASE_DIRECT_URL", "mysql://elsewhere".to_owned()));
    programs.start("api", "countersign-api", &[], &settings);
    let (status, said) = programs.ended("api").await;
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("DATABASE_DIRECT_URL cannot be understood"), "{said}");
}
