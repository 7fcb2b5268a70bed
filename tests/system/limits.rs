//! Clients that are slow, many, greedy or in the way of a stop: what they cost the others, and what they are answered.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use countersign_tests::api_client::ApiClient;
use countersign_tests::stack::Stack;
use reqwest::Method;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::answers::{Connection, TOKEN, check, exchange, refused};
use crate::facts::{SOON, all};

/// To send a request, and the most it may take on a busy machine.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// For an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

const LIST: &str = "GET /domains HTTP/1.1\r\nHost: api\r\n\r\n";

/// What a slow client sends at first, and then once a second.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slow {
    Silent,
    /// Sends a request, takes the answer and stays.
    Staying,
    Head,
    Body,
    /// Of a request whose body nobody wants.
    IgnoredBody,
}

const SLOW: [(Slow, usize, &str, &str); 5] = [
    (Slow::Silent, 500, "", ""),
    (Slow::Staying, 50, LIST, ""),
    (Slow::Head, 100, "GET /domains HTTP/1.1\r\nX-Slow: ", "x"),
    (
        Slow::Body,
        200,
        "POST /domains HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{",
        " ",
    ),
    (Slow::IgnoredBody, 50, "GET /domains/x HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
];

struct SlowClient {
    kind: Slow,
    drop_by_drop: &'static str,
    stream: TcpStream,
    opened: Instant,
    got: Vec<u8>,
    ended_after: Option<Duration>,
}

impl SlowClient {
    fn open(url: &str, (kind, _, first, drop_by_drop): (Slow, usize, &str, &'static str)) -> Self {
        let opened = Instant::now();
        let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
        stream.write_all(first.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { kind, drop_by_drop, stream, opened, got: Vec::new(), ended_after: None }
    }

    /// Takes what has come and sends the next drop; false once the API has hung up.
    fn goes_on(&mut self) -> bool {
        if self.ended_after.is_some() {
            return false;
        }
        match self.stream.read_to_end(&mut self.got) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = self.stream.write(self.drop_by_drop.as_bytes());
            }
            // Also a reset: what was sent after the answer is not read any more.
            _ => self.ended_after = Some(self.opened.elapsed()),
        }
        self.ended_after.is_none()
    }
}

/// Opens all slow clients and keeps them going until the API has ended every one, or for three times as long as it may take.
fn slow_clients(url: String) -> impl FnOnce() -> Vec<SlowClient> {
    let plan = SLOW.iter().flat_map(|kind| std::iter::repeat_n(*kind, kind.1));
    let mut clients: Vec<SlowClient> = plan.map(|kind| SlowClient::open(&url, kind)).collect();
    move || {
        let began = Instant::now();
        // Every one gets its turn.
        let going_on =
            |clients: &mut [SlowClient]| clients.iter_mut().filter_map(|client| client.goes_on().then_some(())).count();
        while going_on(&mut clients) > 0 && began.elapsed() < 3 * SEND_WITHIN {
            thread::sleep(Duration::from_secs(1));
        }
        clients
    }
}

/// One name registered, read, and deleted, each within the limit for an answer.
async fn used_normally(api: ApiClient, name: String) {
    let began = Instant::now();
    let domain = api.register(&name).await;
    assert_eq!(api.fetch(&domain.id).await.domain_name, name);
    assert_eq!(api.try_list("limit=1").await.unwrap().status, 200);
    api.delete(&domain.id).await;
    assert!(began.elapsed() < 4 * ANSWER_WITHIN);
}

/// As many files as this process may have: a thousand connections are more than the usual soft limit.
fn allow_many_connections() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test]
async fn nine_hundred_slow_clients_cost_the_others_nothing_and_are_ended_after_10_s() {
    allow_many_connections();
    let stack = Stack::builder().workers(0).start().await;
    let open = slow_clients(stack.api().url().to_owned());
    let slow = thread::spawn(open);

    let use_normally = |name| used_normally(stack.api().clone(), name);
    for round in 0..10 {
        all((0..10).map(|number| use_normally(format!("shop-{round}-{number}.example.com")))).await;
    }
    let meanwhile = async || {
        use_normally("meanwhile.example.com".to_owned()).await;
        slow.is_finished().then_some(())
    };
    stack.wait_until("the slow clients are ended", 5 * SEND_WITHIN, meanwhile).await;

    for client in slow.join().unwrap() {
        let (kind, text) = (client.kind, String::from_utf8(client.got).unwrap());
        let ended_after =
            client.ended_after.unwrap_or_else(|| panic!("{kind:?} goes on after 30 s, having got {text:?}"));
        assert!(ended_after >= SEND_WITHIN, "{kind:?} was ended after {ended_after:?} with {text:?}");
        let answer = text.lines().next().unwrap_or_default();
        match kind {
            Slow::Silent | Slow::Head => assert_eq!(answer, ""),
            Slow::Staying => assert_eq!((answer, text.matches("HTTP/1.1").count()), ("HTTP/1.1 200 OK", 1)),
            Slow::Body => {
                assert_eq!(answer, "HTTP/1.1 400 Bad Request");
                assert!(text.ends_with(r#"{"error":"the body was not sent within 10 s"}"#), "{text}");
            }
            Slow::IgnoredBody => assert_eq!(answer, "HTTP/1.1 404 Not Found"),
        }
    }
}

#[tokio::test]
async fn clients_that_never_read_their_answers_are_ended_and_their_places_taken_by_others() {
    let stack = Stack::builder().workers(0).setting("MAX_CONNECTIONS", "2").start().await;
    let greedy: Vec<Connection> = (0..2)
        .map(|_| {
            let mut connection = Connection::open(stack.api().url());
            // More than fits into any buffer on the way.
            connection.give_up_sending_after(Duration::from_secs(2));
            connection.send("GET /openapi.json HTTP/1.1\r\nHost: api\r\n\r\n".repeat(3000));
            connection
        })
        .collect();
    let answered = async || stack.api().try_list("").await.ok().map(|answer| answer.status);
    assert_eq!(stack.wait_until("another client is answered", 3 * ANSWER_WITHIN, answered).await, 200);
    drop(greedy);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_also_for_a_client_that_sends_on() {
    let stack = Stack::builder().workers(0).start().await;
    let api = stack.api();
    for size in [70_000, 1_000_000] {
        for number in 0..40 {
            let request = api.request(Method::POST, "/domains").header("Content-Type", "application/json");
            let answer = api.send(request.body(" ".repeat(size))).await;
            let answer =
                answer.unwrap_or_else(|error| panic!("no answer to body {number} of {size} octets: {error:#}"));
            refused(answer, 413);
        }
    }
    let valid = json!({"domain_name": "shop.example.com"}).to_string();
    let request = api.request(Method::POST, "/domains").header("Content-Type", "application/json");
    let body = format!("{}{valid}", " ".repeat(64 * 1024 - valid.len()));
    api.send(request.body(body)).await.unwrap().expect(201);
}

#[tokio::test]
async fn a_head_may_have_32_kib_and_a_connection_several_requests() {
    let stack = Stack::builder().workers(0).start().await;
    let url = stack.api().url();
    let head = |size: usize| {
        let head = "GET /domains HTTP/1.1\r\nHost: api\r\nX-Long: \r\n\r\n";
        head.replace("X-Long: ", &format!("X-Long: {}", "x".repeat(size - head.len())))
    };
    let mut connection = Connection::open(url);
    for size in [100, 8 * 1024, 31 * 1024, 100, 32 * 1024 - 1] {
        connection.send(head(size));
        let answer = connection.answer().unwrap_or_else(|| panic!("no answer to a head of {size} octets"));
        check(answer.status, &answer.headers, &answer.body);
        answer.expect(200);
    }
    // Several at once are answered one after the other.
    connection.send(format!("{LIST}{}{LIST}", LIST.replace("/domains", "/nowhere")));
    let answers: Vec<u16> = (0..3).map(|_| connection.answer().unwrap().status).collect();
    assert_eq!(answers, [200, 404, 200]);
    for size in [33 * 1024, 64 * 1024, 1024 * 1024] {
        let answer = exchange(url, head(size)).unwrap_or_else(|| panic!("no answer to a head of {size} octets"));
        assert_eq!((answer.status, answer.body), (431, json!(null)));
    }
    connection.send(LIST);
    connection.answer().unwrap().expect(200);
}

/// Waits until an issuance waits for a worker.
async fn is_held(stack: &Stack) {
    let accepted = async || {
        let query = sqlx::query("SELECT FROM orders WHERE state = 'accepted'");
        query.fetch_optional(stack.pool()).await.unwrap().map(drop)
    };
    stack.wait_until("a call waits for a worker", SOON, accepted).await;
}

#[tokio::test]
async fn a_request_beyond_the_places_is_503_until_one_is_free() {
    let stack = Stack::builder()
        .workers(0)
        .setting("MAX_REQUESTS", "1")
        .setting("PLACE_WAIT", "5s")
        .leftovers_allowed()
        .start();
    let stack = stack.await;
    let domain = stack.verified_domain("shop.example.com").await;
    let late_body = r#"{"domain_name": "slow.example.com"}"#;
    let held = async { stack.api().try_issue(&domain.id).await.unwrap() };
    let others = async {
        is_held(&stack).await;
        let calls = [
            (Method::GET, "/domains".to_owned()),
            (Method::POST, "/domains".to_owned()),
            (Method::DELETE, format!("/domains/{}", domain.id)),
            (Method::GET, "/nowhere".to_owned()),
            (Method::GET, "/openapi.json".to_owned()),
        ];
        for (method, path) in calls {
            let answer = stack.api().send(stack.api().request(method, &path)).await.unwrap();
            assert_eq!(refused(answer, 503), "too many requests are being answered; try again", "{path}");
        }
        // A client that is still sending its body has no place yet.
        let mut slow = Connection::open(stack.api().url());
        let length = late_body.len();
        slow.send(format!(
            "POST /domains HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        ));
        slow
    };
    let (held, mut slow) = tokio::join!(held, others);
    assert_eq!(refused(held, 500), "the order could not be placed: no worker took it");
    assert_eq!(stack.api().fetch(&domain.id).await.status, "verified");
    slow.send(late_body);
    slow.answer().unwrap().expect(201);
}

#[tokio::test]
async fn a_stop_lets_answers_finish_and_waits_for_nobody_else() {
    // Waits that outlast the test, so that only an answer ends them.
    let stack = Stack::builder()
        .apis(2)
        .not_yet("worker-1")
        .setting("PLACE_WAIT", "25s")
        .setting("SHUTDOWN_GRACE", "25s")
        .setting_of("api-2", "SHUTDOWN_GRACE", "1s")
        .leftovers_allowed()
        .start()
        .await;
    let first = stack.verified_domain("first.example.com").await;
    let second = stack.verified_domain("second.example.com").await;
    let url = stack.api().url();
    let silent = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    let mut staying = Connection::open(url);
    staying.send(LIST);
    staying.answer().unwrap().expect(200);

    let issued = async { stack.api().try_issue(&first.id).await.unwrap() };
    let stopped = async {
        is_held(&stack).await;
        let begins_to_stop = async {
            let refused = async || TcpStream::connect(url.strip_prefix("http://").unwrap()).is_err().then_some(());
            stack.wait_until("nobody new is let in", SOON, refused).await;
            assert!(stack.is_running("api-1"), "it has left its caller alone");
            stack.restart("worker-1").await;
        };
        tokio::join!(stack.terminate("api-1", Duration::from_secs(25)), begins_to_stop).0
    };
    let (issued, status) = tokio::join!(issued, stopped);
    check(issued.status, &issued.headers, &issued.body);
    assert_eq!(issued.expect(202)["status"], "certificate_pending");
    assert!(status.success(), "{status}");
    assert!(staying.answer().is_none());
    drop(silent);

    // What takes longer than the grace is dropped.
    let stopped = Instant::now();
    stack.terminate("worker-1", SOON).await;
    let issued = async { stack.api_replica(2).try_issue(&second.id).await };
    let status = async {
        is_held(&stack).await;
        stack.terminate("api-2", Duration::from_secs(10)).await
    };
    let (issued, status) = tokio::join!(issued, status);
    assert!(issued.is_err() && status.success(), "{issued:?} {status} {:?}", stopped.elapsed());
}

#[tokio::test]
async fn every_kind_of_answer_has_the_security_headers() {
    let stack = Stack::builder().workers(0).setting("AUTH_TOKEN", TOKEN).start().await;
    let api = stack.api();
    let known = api.register("known.example.com").await;
    let path = format!("/domains/{}", known.id);
    let register =
        |body: String| api.request(Method::POST, "/domains").header("Content-Type", "application/json").body(body);
    let call = |method: Method, path: &str| api.request(method, path);
    let table = [
        (201, register(json!({"domain_name": "new.example.com"}).to_string())),
        (200, call(Method::GET, "/domains")),
        (200, call(Method::GET, &path)),
        (400, register("{".to_owned())),
        (400, call(Method::POST, &format!("{path}/verify"))),
        (401, api.with_token(None).request(Method::GET, &path)),
        (404, call(Method::GET, "/nowhere")),
        (404, call(Method::GET, "/domains/x")),
        (405, call(Method::PUT, &path)),
        (413, register(" ".repeat(70_000))),
        (500, register(json!({"domain_name": "known.example.com"}).to_string())),
        (204, call(Method::DELETE, &path)),
    ];
    for (status, request) in table {
        let answer = api.send(request).await.unwrap();
        check(answer.status, &answer.headers, &answer.body);
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    stack.kill("postgres");
    assert_eq!(refused(api.try_list("").await.unwrap(), 503), "the database cannot be reached; try again");
    stack.abandon();
}
