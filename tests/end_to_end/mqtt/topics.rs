//! Topics that are allowed, forbidden, and called otherwise at the broker.

use super::*;

#[test]
fn topics_are_allowed_and_forbidden_in_each_versions_own_words() {
    let broker = Mosquitto::start();
    let finback = front(
        &broker,
        r#"
      mqtt:
        acl:
          - { deny: all, topics: [ "secret/#" ] }
          - { allow: publish, topics: [ "up/{client_id}/#" ] }
          - { allow: subscribe, topics: [ "down/{client_id}/#", "all/+" ] }
"#,
    );
    let peer = Peer::mqtt();
    let at = url(&finback);
    for version in ["4", "5"] {
        let name = format!("device-{version}");
        let fields = [("version", version)];
        let (client, _) = Client::connect(&peer, &name, &at, &fields).unwrap();
        let refused = if version == "5" { 0x87 } else { 0x80 };
        let down = format!("down/{name}/x");
        let granted = client.subscribe(&format!("secret/x {down} # all/+ down/other/x"), "1");
        assert_eq!(granted, json!([refused, 1, refused, 1, refused]));
        assert_eq!(client.subscribe("secret/x", "1"), json!([refused]));
        // The subscriptions that were allowed hold.
        tool("mosquitto_pub", broker.port, &["-t", &down, "-m", "yes"]);
        tool(
            "mosquitto_pub",
            broker.port,
            &["-t", "secret/x", "-m", "no"],
        );
        tool("mosquitto_pub", broker.port, &["-t", "all/x", "-m", "also"]);
        assert_eq!(client.heard(2), [pair(&down, "yes"), pair("all/x", "also")]);
        // What is forbidden never reaches the broker, and blocks nothing that is allowed.
        let (watcher, _) = Client::connect(
            &peer,
            "watcher",
            &format!("mqtt://{}", broker.address()),
            &[],
        )
        .unwrap();
        watcher.subscribe("#", "2");
        let up = format!("up/{name}/power");
        for qos in ["0", "1", "2"] {
            let denied = client.publish("secret/x", "no", qos);
            match (version, qos) {
                ("5", "1" | "2") => {
                    let failure = denied.unwrap_err();
                    assert!(failure.text.contains("Not authorized"), "{failure:?}");
                }
                _ => assert_eq!(denied.unwrap(), json!([0])),
            }
            client.publish(&up, qos, qos).unwrap();
        }
        let large = [("topic", "secret/large"), ("size", "300000"), ("qos", "0")];
        client.ask("publish", &large).unwrap();
        client.publish(&up, "last", "1").unwrap();
        let expected = ["0", "1", "2", "last"].map(|payload| pair(&up, payload));
        let mut heard = Vec::new();
        while heard.len() < 4 {
            heard.extend(
                watcher
                    .heard(1)
                    .into_iter()
                    .filter(|(topic, _)| topic != &down && topic != "all/x"),
            );
        }
        // Order holds within a quality: what comes at QoS 2 is told to the watcher when it is released.
        heard.sort();
        assert_eq!(heard, expected);
        watcher.ask("end", &[]).unwrap();
        // A will must not say what the client may not.
        let will = json!({ "topic": "secret/will", "payload": "x" }).to_string();
        let failure = Client::connect(
            &peer,
            "plotter",
            &at,
            &[("version", version), ("will", &will)],
        );
        assert!(failure.err().unwrap().contains("Not authorized"));
        client.ask("end", &[]).unwrap();
        // Answers keep the order of messages, whoever gives them.
        for (qos, answer) in [(0x32, 0x40), (0x34, 0x50)] {
            let mut stream = std::net::TcpStream::connect(finback.local("mqtt")).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut said = match version {
                "4" => b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01o".to_vec(),
                _ => b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01o".to_vec(),
            };
            for id in 1..=40 {
                let topic = if id % 3 == 0 { "up/o/x" } else { "secret" };
                let mut body = vec![0, u8::try_from(topic.len()).unwrap()];
                body.extend_from_slice(topic.as_bytes());
                body.extend_from_slice(&[0, id]);
                if version == "5" {
                    body.push(0);
                }
                said.extend_from_slice(&[qos, u8::try_from(body.len()).unwrap()]);
                said.extend(body);
            }
            std::io::Write::write_all(&mut stream, &said).unwrap();
            let mut order = Vec::new();
            while order.len() < 40 {
                let mut head = [0; 2];
                std::io::Read::read_exact(&mut stream, &mut head).unwrap();
                let mut body = vec![0; head[1].into()];
                std::io::Read::read_exact(&mut stream, &mut body).unwrap();
                if head[0] == answer {
                    order.push(body[1]);
                }
            }
            assert!(order.iter().copied().eq(1..=40), "{order:?}");
        }
        // A name that would be more than a name is not let in.
        let failure = Client::connect(&peer, "sly", &at, &[("version", version), ("id", "a/#")]);
        assert!(failure.err().unwrap().contains("Not authorized"));
    }
    let (_, metrics) = finback.admin("/metrics");
    let denied = r#"topic="secret",kind="publish",qos="1",outcome="denied"}"#;
    assert!(metrics.contains(denied), "{metrics}");
}

#[test]
fn topics_have_other_names_at_the_broker_wherever_they_stand() {
    let broker = Mosquitto::start();
    let finback = front(
        &broker,
        r#"
      mqtt:
        mountpoint: "tenants/{username}/"
        rewrite: [ { from: "old/", to: "new/" } ]
"#,
    );
    let peer = Peer::mqtt();
    let at = url(&finback);
    let fields = [("version", "5"), ("username", "acme")];
    let (watcher, _) = Client::connect(
        &peer,
        "watcher",
        &format!("mqtt://{}", broker.address()),
        &[("version", "5")],
    )
    .unwrap();
    watcher.subscribe("tenants/#", "2");
    let will =
        json!({ "topic": "old/will", "payload": "bye", "properties": { "responseTopic": "r" } })
            .to_string();
    let (one, _) = Client::connect(
        &peer,
        "one",
        &at,
        &[&fields[..], &[("will", &will)]].concat(),
    )
    .unwrap();
    let (two, _) = Client::connect(&peer, "two", &at, &fields).unwrap();
    let (other, _) = Client::connect(&peer, "other", &at, &[("username", "rival")]).unwrap();
    other.subscribe("#", "1");
    two.subscribe("#", "2");
    let properties = r#"{"responseTopic":"answers/1","correlationData":"7","userProperties":{"traceparent":"00-1-2-01"}}"#;
    for qos in ["0", "1", "2"] {
        one.ask(
            "publish",
            &[
                ("topic", "old/a"),
                ("payload", qos),
                ("qos", qos),
                ("properties", properties),
            ],
        )
        .unwrap();
        let heard = two.ask("heard", &[("count", "1")]).unwrap();
        let message = &heard[0];
        assert_eq!(message["topic"], "old/a");
        assert_eq!(message["properties"]["responseTopic"], "answers/1");
        assert_eq!(message["properties"]["correlationData"], "7");
        assert_eq!(
            message["properties"]["userProperties"]["traceparent"],
            "00-1-2-01"
        );
        let there = watcher.ask("heard", &[("count", "1")]).unwrap();
        assert_eq!(there[0]["topic"], "tenants/acme/new/a");
        assert_eq!(
            there[0]["properties"]["responseTopic"],
            "tenants/acme/answers/1"
        );
    }
    // By alias, which the broker never sees.
    let define = r#"{"topicAlias":1}"#;
    one.ask(
        "publish",
        &[
            ("topic", "b"),
            ("payload", "1"),
            ("qos", "1"),
            ("properties", define),
        ],
    )
    .unwrap();
    one.ask(
        "publish",
        &[
            ("topic", ""),
            ("payload", "2"),
            ("qos", "1"),
            ("properties", define),
        ],
    )
    .unwrap();
    assert_eq!(two.heard(2), [pair("b", "1"), pair("b", "2")]);
    assert_eq!(
        watcher.heard(2),
        ["1", "2"].map(|n| pair("tenants/acme/b", n))
    );
    // A shared subscription is mounted behind its name; what is unsubscribed is not heard.
    two.ask("unsubscribe", &[("filter", "#")]).unwrap();
    two.subscribe("$share/group/old/+", "1");
    one.publish("c", "unheard", "1").unwrap();
    one.publish("old/d", "heard", "1").unwrap();
    assert_eq!(two.heard(1), [pair("old/d", "heard")]);
    one.ask("end", &[("force", "true")]).unwrap();
    assert_eq!(two.heard(1), [pair("old/will", "bye")]);
    // Nothing of it reached another tenant, who hears its own.
    other.publish("own", "mine", "1").unwrap();
    assert_eq!(other.heard(1), [pair("own", "mine")]);
}
