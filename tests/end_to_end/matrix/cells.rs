//! The matrix as data: for each policy and protocol the test that holds it to its word, or why there is none. What
//! docs/filters.md tells of it is compared.

use std::path::Path;

use super::Protocol;

/// One policy in one protocol.
#[derive(Clone, Copy)]
enum Cell {
    /// This test.
    By(&'static str),
    /// It cannot be there.
    Never(&'static str),
}

use Cell::{By, Never};

const BY_ALL: fn(&'static str) -> [Cell; 10] = |test| [By(test); 10];

/// Of the first six protocols by one test, and of sessions and connections by others.
const fn calls(test: &'static str, [mqtt3, mqtt5, rocketmq, tcp]: [Cell; 4]) -> [Cell; 10] {
    let own = By(test);
    [own, own, own, own, own, own, mqtt3, mqtt5, rocketmq, tcp]
}

/// Every policy, as docs/filters.md calls it, in the order of the columns.
fn policies() -> Vec<(&'static str, [Cell; 10])> {
    let session = Never("sessions are not answered");
    let tcp = Never("connections bear nothing");
    let token = "matrix::who_does_not_prove_who_it_is_is_told_so";
    let no_token = Never("there is no place for a token: nobody is let in");
    let calls_count = Never("a call is a message");
    let brokers = Never("its clients choose their brokers");
    let shed = Never("sessions hold no place");
    let drops = "matrix::an_answer_that_is_dropped_is_never_heard";
    let fails = By("matrix::who_fails_is_left_alone");
    let trouble = "matrix::trouble_on_purpose_looks_like_trouble";
    let sofa = By("hedging::calls_of_sofa_and_dubbo_go_on_while_a_provider_hangs");
    let copies =
        By("mqtt_shadows::what_nobody_acknowledges_is_copied_with_its_mark_and_nothing_else_is");
    let once = Never("a session or connection is begun once");
    vec![
        (
            "`authorization`",
            BY_ALL("matrix::who_is_not_allowed_is_told_so"),
        ),
        (
            "`external_authorization`",
            BY_ALL("matrix::what_another_server_says_of_a_call_is_told_in_its_own_words"),
        ),
        (
            "`jwt`",
            calls(token, [no_token, no_token, By(token), no_token]),
        ),
        (
            "`rate_limit` of calls",
            BY_ALL("matrix::who_calls_too_often_is_told_so"),
        ),
        (
            "`rate_limit` of messages",
            [
                calls_count,
                calls_count,
                calls_count,
                calls_count,
                calls_count,
                calls_count,
                By("filters::devices::who_publishes_too_much_is_slowed_down_and_loses_nothing"),
                By("mqtt_filters::who_publishes_too_many_bytes_is_slowed_down"),
                calls_count,
                tcp,
            ],
        ),
        (
            "`rate_limit_service`",
            BY_ALL("matrix::who_calls_too_often_is_told_so"),
        ),
        ("`sentinel`", BY_ALL("matrix::who_gets_no_token_is_told_so")),
        ("`fault`: `delay`, `refuse`", BY_ALL(trouble)),
        (
            "`fault`: `drop_response`",
            calls(drops, [session, session, By(drops), tcp]),
        ),
        ("`lane`", {
            let own = "matrix::calls_of_a_lane_reach_its_own_server";
            let messages = By("rocketmq::gray::messages_of_a_lane_are_for_those_who_ask_for_it");
            calls(own, [By(own), By(own), messages, By(own)])
        }),
        (
            "`strip`",
            calls(
                "matrix::words_of_strangers_do_not_arrive",
                [
                    Never("CONNECT has no properties"),
                    By("matrix::words_of_strangers_are_in_no_connect"),
                    By(
                        "rocketmq::shadows::what_a_filter_takes_from_messages_is_in_no_copy_of_them",
                    ),
                    tcp,
                ],
            ),
        ),
        (
            "`shadow`",
            calls(
                "matrix::copies_arrive_at_the_shadow",
                [
                    copies,
                    copies,
                    By(
                        "rocketmq::shadows::what_is_sent_arrives_in_the_shadow_too_and_halves_of_transactions_never_do",
                    ),
                    tcp,
                ],
            ),
        ),
        (
            "`adaptive_concurrency`",
            calls(
                "matrix::a_call_over_a_limit_that_was_found_out_is_told_so",
                [shed, shed, brokers, shed],
            ),
        ),
        ("`outlier`", [fails; 10]),
        (
            "`hedging_delay`",
            [
                sofa,
                sofa,
                By("hung_servers::calls_of_triple_go_on_while_a_provider_hangs"),
                By("hedging::calls_of_grpc_go_on_while_a_server_hangs"),
                By("hung_servers::requests_go_on_while_a_server_hangs"),
                By("hung_servers::requests_go_on_while_a_server_hangs"),
                once,
                once,
                brokers,
                once,
            ],
        ),
    ]
}

fn read(path: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join(path)).ok()
}

/// Whether a test of end to end is there: `module::name`.
fn is_test(name: &str) -> bool {
    let (module, name) = name.rsplit_once("::").unwrap();
    let module = format!("tests/end_to_end/{}", module.replace("::", "/"));
    let text = read(&format!("{module}.rs")).or_else(|| read(&format!("{module}/mod.rs")));
    text.is_some_and(|own| own.contains(&format!("#[test]\nfn {name}()")))
}

#[test]
fn every_cell_has_a_test_or_a_reason() {
    for (policy, cells) in policies() {
        for (protocol, cell) in Protocol::ALL.iter().zip(cells) {
            match cell {
                By(test) => assert!(is_test(test), "{policy} {protocol:?}: no test {test}"),
                Never(why) => assert!(!why.is_empty(), "{policy} {protocol:?}"),
            }
        }
    }
}

#[test]
fn the_page_tells_of_the_same_cells() {
    let page = read("docs/filters.md").unwrap();
    let begin = "<!-- matrix: begin -->\n";
    let own = page.split_once(begin).unwrap().1;
    let own = own.split_once("<!-- matrix: end -->").unwrap().0;
    let names = Protocol::ALL.map(Protocol::title).join(" | ");
    let mut told = format!("| | {names} |\n|{}\n", "---|".repeat(11));
    let mut reasons: Vec<&str> = Vec::new();
    for (policy, cells) in policies() {
        let cells = cells.map(|cell| match cell {
            By(_) => "yes".to_owned(),
            Never(why) => {
                let known = reasons.iter().position(|own| *own == why);
                let number = known.unwrap_or_else(|| {
                    reasons.push(why);
                    reasons.len() - 1
                });
                format!("({})", number + 1)
            }
        });
        told.push_str(&format!("| {policy} | {} |\n", cells.join(" | ")));
    }
    told.push('\n');
    let reasons = (1..)
        .zip(reasons)
        .map(|(number, why)| format!("({number}) {why}"));
    told.push_str(&format!("{}.\n", reasons.collect::<Vec<_>>().join("; ")));
    assert!(own == told, "docs/filters.md should say:\n{told}");
}
