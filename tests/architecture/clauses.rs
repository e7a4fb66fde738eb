//! Clauses of standards stand beside the code that obeys them, in the forms that CONTRIBUTING.md has and no other.

use crate::{root, sources};

/// What has numbered sections, as it is cited.
const STANDARDS: [&str; 10] = [
    "MQTT 5",
    "MQTT 3.1.1",
    "Hessian 2",
    "PROXY protocol",
    "HTML standard",
    "W3C Trace Context",
    "W3C Trace Context: MQTT",
    "SPIFFE-ID",
    "X509-SVID",
    "X.690",
];

/// What has no standard but its source: whose, and the classes and pages that are cited.
const SOURCES: [(&str, &[&str]); 7] = [
    (
        "Bolt",
        &[
            "CommonCommandCode",
            "CrcUtil",
            "ResponseStatus",
            "RpcCommandCode",
            "RpcCommandDecoder",
            "RpcCommandDecoderV2",
            "RpcCommandType",
            "RpcProtocol",
            "RpcProtocolV2",
            "RpcResponseResolver",
            "SimpleMapSerializer",
        ],
    ),
    (
        "Dubbo",
        &[
            "AbstractCodec",
            "AbstractConfigurator",
            "AbstractLoadBalance",
            "AddressMatch",
            "ConditionStateRouter",
            "ConfigItem",
            "ConfigParser",
            "Constants",
            "DefaultFuture",
            "DubboCodec",
            "DubboInvoker",
            "DubboProtocol",
            "ExchangeCodec",
            "FastJson2ObjectOutput",
            "GenericFilter",
            "MetadataInfo",
            "MultiDestConditionRouter",
            "NetUtils",
            "Response",
            "RpcUtils",
            "ServiceInstanceMetadataUtils",
            "ServiceInstancesChangedListener",
            "StringMatch",
            "TagStateRouter",
            "TriRpcStatus",
            "TripleHeaderEnum",
            "ZookeeperRegistry",
        ],
    ),
    ("Hessian 3", &["Hessian2Constants"]),
    (
        "RocketMQ",
        &[
            "AbstractSendMessageProcessor",
            "AclUtils",
            "CompressionType",
            "ConsumerManageProcessor",
            "ConsumerSendMsgBackRequestHeader",
            "DefaultMQProducer",
            "ExpressionType",
            "FilterAPI",
            "HeartbeatData",
            "MQVersion",
            "MessageConst",
            "MessageDecoder",
            "MessageSysFlag",
            "MixAll",
            "PermName",
            "PopMessageResponseHeader",
            "PullMessageResponseHeader",
            "PullSysFlag",
            "RemotingCommand",
            "RemotingSysResponseCode",
            "RequestCode",
            "ResponseCode",
            "RocketMQSerializable",
            "SelectorParser",
            "SendMessageRequestHeader",
            "SendMessageRequestHeaderV2",
            "SessionCredentials",
            "SubscriptionData",
            "TopicValidator",
        ],
    ),
    (
        "SOFA-RPC",
        &[
            "AbstractCluster",
            "FailoverCluster",
            "PressureMarkTransformFilter",
            "RemotingConstants",
            "TripleHeadKeys",
            "ZookeeperRegistry",
        ],
    ),
    (
        "gRPC",
        &[
            "PROTOCOL-HTTP2.md",
            "PROTOCOL-WEB.md",
            "health-checking.md",
            "http-grpc-status-mapping.md",
            "statuscodes.md",
        ],
    ),
    ("W3C Trace Context", &["MQTT"]),
];

/// The comment of a line, if it has one.
fn comment(line: &str) -> Option<&str> {
    let at = line.find("//")?;
    // An address in a text is none.
    (!line[..at].ends_with(':')).then(|| line[at..].trim_start_matches(['/', '!']).trim_start())
}

/// Whether a text ends with the name of a standard.
fn ends_with_standard(text: &str) -> bool {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_digit());
    let is_rfc = digits.len() < text.len() && digits.ends_with("RFC ");
    is_rfc || STANDARDS.iter().any(|name| text.ends_with(name))
}

/// Whether this begins with the number of a section: `5.1`, `B`.
fn is_numbered(text: &str) -> bool {
    let number = text
        .split([' ', ',', ';', ':', ')', '.'])
        .next()
        .unwrap_or_default();
    !number.is_empty()
        && (number.bytes().all(|byte| byte.is_ascii_digit())
            || number.len() == 1 && number.bytes().all(|byte| byte.is_ascii_uppercase()))
}

/// What is wrong with the citations of one line.
fn faults(comment: &str) -> Vec<String> {
    let mut found = Vec::new();
    for word in ["ection ", "ections ", "ppendix "] {
        for (at, _) in comment.match_indices(word) {
            if !is_numbered(&comment[at + word.len()..]) {
                continue;
            }
            // One letter before it belongs to the word.
            let before = &comment[..at.saturating_sub(1)];
            let is_lower = comment[..at].ends_with(['s', 'a']);
            let known = before.strip_suffix(", ").is_some_and(ends_with_standard);
            // More of the same standard: "RFC 7541, section 5.2 and appendix B".
            let goes_on = before.ends_with(" and ") && before.contains(", section");
            if !is_lower || !known && !goes_on {
                found.push(format!("a section of what? {comment}"));
            }
        }
    }
    if let Some(text) = comment.strip_suffix(',')
        && ends_with_standard(text)
    {
        found.push(format!("a citation is torn between two lines: {comment}"));
    }
    for (whose, names) in SOURCES {
        for name in names {
            let cited = |(whose, names): &(&str, &[&str]), text: &str| {
                names.contains(name) && text.ends_with(&format!("{whose}: {name}"))
            };
            for (at, _) in comment.match_indices(name) {
                let is_word =
                    |char: Option<char>| char.is_some_and(|c| c.is_alphanumeric() || c == '_');
                let (before, after) = (&comment[..at], &comment[at + name.len()..]);
                // Short names are words of everybody's.
                let is_own = name.len() < 12
                    || is_word(before.chars().next_back())
                    || is_word(after.chars().next());
                if !is_own
                    && !SOURCES
                        .iter()
                        .any(|own| cited(own, &comment[..at + name.len()]))
                {
                    found.push(format!("`{name}` is cited as `{whose}: {name}`: {comment}"));
                }
            }
        }
        let cited = format!("{whose}: ");
        for (at, _) in comment.match_indices(&cited) {
            let cited = &comment[at + cited.len()..];
            let name = cited
                .split([' ', ',', ';', ':', ')'])
                .next()
                .unwrap_or_default();
            let name = name.strip_suffix('.').unwrap_or(name);
            let is_class = name.ends_with(".md")
                || name.chars().skip(1).any(char::is_uppercase)
                    && name.contains(char::is_lowercase);
            if is_class && !names.contains(&name) {
                found.push(format!(
                    "`{whose}: {name}` is not on the list of sources: {comment}"
                ));
            }
        }
    }
    found
}

#[test]
fn clauses_have_their_form() {
    let (mut faults_found, mut cited) = (Vec::new(), 0);
    for folder in [
        "protocols",
        "core/src",
        "registry/src",
        "observability/src",
        "src",
    ] {
        for path in sources(&root().join(folder)) {
            let text = std::fs::read_to_string(&path).unwrap();
            let own = path.strip_prefix(root()).unwrap().display();
            for (number, line) in (1..).zip(text.lines()) {
                let Some(comment) = comment(line) else {
                    continue;
                };
                cited += comment.matches(", section").count();
                for fault in faults(comment) {
                    faults_found.push(format!("{own}:{number}: {fault}"));
                }
            }
        }
    }
    assert!(faults_found.is_empty(), "\n{}", faults_found.join("\n"));
    assert!(cited > 200, "only {cited} clauses are found");
}

#[test]
fn contributors_are_told_the_forms() {
    let page = std::fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    for (whose, names) in SOURCES {
        let is_told = names
            .iter()
            .any(|name| page.contains(&format!("`{whose}: {name}`")));
        assert!(is_told || whose.contains(' '), "no example of {whose}");
    }
}

#[test]
fn other_forms_are_found() {
    for good in [
        "RFC 9112, section 6.3: once.",
        "as told (RFC 9113, sections 5 and 6)",
        "RFC 7541, section 5.2 and appendix B",
        "MQTT 5, section 3.1.2.10, and some more",
        "Sections of the page",
        "Bolt: RpcProtocolV2 has it",
        "Of gRPC: the number that it ends with",
    ] {
        assert_eq!(faults(good), [""; 0], "{good}");
    }
    for bad in [
        "Section 6.3: once.",
        "(section 3.14)",
        "RFC 9112 section 6.3",
        "so it is (RFC 9110,",
        "as `RpcProtocolV2` does",
        "Bolt: RpcProtocolV9 has it",
    ] {
        assert_eq!(faults(bad).len(), 1, "{bad}");
    }
}
