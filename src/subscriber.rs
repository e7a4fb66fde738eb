//! MQTT subscriptions of our own at brokers, whose messages go to another system.
//!
//! A message is acknowledged to its broker when Kafka has it, in the order in which messages came;
//! the session outlives its connection, so what was not acknowledged comes again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use finback_bridges::{Confirm, Failure};
use finback_mqtt::OutgoingMessage;
use finback_mqtt::codec::Properties;
use finback_mqtt::codec::properties::{Writer, id};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish, RetainForwardRule, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions, Request};
use rumqttc::{TlsConfiguration, Transport};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bridges::BridgeOutlet;
use crate::bridges::sink::BridgeSink;
use crate::tls::ClientFiles;

/// Messages that a broker may send before one is acknowledged.
const WINDOW: u16 = 256;
/// Messages on their way to Kafka after which no more are read: those of quality of service 0
/// know no window.
const FULL: usize = 2 * WINDOW as usize;
/// What a broker keeps for us while we are away: a week.
const EXPIRY: u32 = 7 * 24 * 3600;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// The longest message.
const MAX_PACKET: u32 = 1024 * 1024;
/// After so long a message that Kafka did not take is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// Between two attempts to connect, doubled each time.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// While stopping, messages on their way have this long to be acknowledged.
const LAST: Duration = Duration::from_secs(5);

/// A subscription as configured.
#[derive(Debug)]
pub struct Subscription {
    /// The broker's host and port.
    pub broker: (String, u16),
    /// Under which identifier; the session is kept by it.
    pub client_id: String,
    /// User and password.
    pub login: Option<(String, String)>,
    /// TLS, if the broker speaks it.
    pub tls: Option<ClientFiles>,
    /// Topic filters.
    pub topics: Vec<String>,
    /// Where messages go.
    pub sink: Arc<BridgeSink>,
}

impl Subscription {
    /// What tells two of them apart.
    fn settings(&self) -> Settings {
        Settings {
            own: format!("{self:?}"),
            outlet: self.sink.outlet.clone(),
        }
    }
}

/// Everything that was configured of a subscription.
struct Settings {
    own: String,
    outlet: BridgeOutlet,
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        self.own == other.own && self.outlet.is_same(&other.outlet)
    }
}

/// Subscriptions at work.
#[derive(Default)]
pub struct Subscribers(Vec<Subscriber>);

struct Subscriber {
    settings: Settings,
    client_id: String,
    topics: Vec<String>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Subscribers {
    /// Ends those that are not wanted any more, and begins those that are new. Nothing is changed
    /// if one cannot begin. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If files of its TLS cannot be used.
    pub fn replace(&mut self, wanted: Vec<Subscription>) -> anyhow::Result<()> {
        let mut prepared = Vec::new();
        for subscription in wanted {
            let settings = subscription.settings();
            let known = self.0.iter().any(|own| own.settings == settings);
            let options = options(&subscription)
                .with_context(|| format!("subscription {}", subscription.client_id))?;
            prepared.push((settings, known, options, subscription));
        }
        let (kept, mut ending) = std::mem::take(&mut self.0).into_iter().partition(|own| {
            let mut settings = prepared.iter().map(|(settings, ..)| settings);
            settings.any(|settings| *settings == own.settings)
        });
        self.0 = kept;
        for own in &ending {
            let _ = own.stop.send(true);
        }
        for (settings, known, options, subscription) in prepared {
            if known {
                continue;
            }
            let client_id = subscription.client_id.clone();
            // Two of one session would throw each other out.
            let before = ending.iter().position(|own| own.client_id == client_id);
            let before = before.map(|at| ending.swap_remove(at));
            let topics = subscription.topics.clone();
            let (stop, stopped) = watch::channel(false);
            let task = tokio::spawn(async move {
                let mut gone = Vec::new();
                if let Some(before) = before {
                    gone = before.topics;
                    gone.retain(|topic| !subscription.topics.contains(topic));
                    let _ = before.task.await;
                }
                follow(subscription, gone, options, stopped).await;
            });
            self.0.push(Subscriber {
                settings,
                client_id,
                topics,
                stop,
                task,
            });
        }
        Ok(())
    }

    /// Ends all of them; what is on its way is acknowledged first, if that does not take long.
    pub async fn stop(&mut self) {
        for own in &self.0 {
            let _ = own.stop.send(true);
        }
        for own in self.0.drain(..) {
            let _ = tokio::time::timeout(LAST, own.task).await;
        }
    }
}

fn options(of: &Subscription) -> anyhow::Result<MqttOptions> {
    let (host, port) = &of.broker;
    let mut options = MqttOptions::new(&of.client_id, host, *port);
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_start(false)
        .set_session_expiry_interval(Some(EXPIRY))
        .set_receive_maximum(Some(WINDOW))
        .set_max_packet_size(Some(MAX_PACKET))
        .set_manual_acks(true);
    if let Some((user, password)) = &of.login {
        options.set_credentials(user, password);
    }
    if let Some(files) = &of.tls {
        let config = Arc::new(files.config()?);
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(config)));
    }
    Ok(options)
}

/// What the connection tells.
enum News {
    /// It was made; whether the broker knows the session.
    Connected(bool),
    Message(Box<Publish>),
    /// It was lost; there is no new one before this is answered.
    Lost(oneshot::Sender<()>),
}

/// Keeps a connection and tells what it hears. The library's event loop is polled here only, and
/// never given up halfway.
async fn listen(mut events: EventLoop, client_id: String, news: mpsc::Sender<News>) {
    let mut pause = PAUSE.0;
    loop {
        let told = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                pause = PAUSE.0;
                tracing::info!(client_id, "subscribed at its broker");
                news.send(News::Connected(connack.session_present)).await
            }
            Ok(Event::Incoming(Packet::SubAck(answer))) => {
                for reason in &answer.return_codes {
                    if !matches!(reason, SubscribeReasonCode::Success(_)) {
                        tracing::error!(client_id, ?reason, "a topic is refused by the broker");
                    }
                }
                Ok(())
            }
            Ok(Event::Incoming(Packet::Publish(message))) => {
                news.send(News::Message(Box::new(message))).await
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(client_id, %error, "a subscription's broker is not reached");
                let (heard, hears) = oneshot::channel();
                let told = news.send(News::Lost(heard)).await;
                let _ = hears.await;
                // What was not acknowledged comes again: an acknowledgement of the former
                // connection would be of somebody else's message.
                events.clean();
                events
                    .pending
                    .retain(|request| !matches!(request, Request::PubAck(_)));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
                told
            }
        };
        if told.is_err() {
            return;
        }
    }
}

/// How far a message has come.
#[derive(PartialEq, Eq)]
enum Stage {
    New,
    Sent,
    /// It may be acknowledged.
    Safe,
}

struct Waiting {
    number: u64,
    message: Box<Publish>,
    stage: Stage,
}

/// What one subscription has on its way. Brokers bound it by the window they were given.
struct Way {
    subscription: Subscription,
    /// Topics of the subscription that this one replaces, which it has no more.
    gone: Vec<String>,
    client: AsyncClient,
    waiting: VecDeque<Waiting>,
    next: u64,
    tell: mpsc::UnboundedSender<(u64, Result<(), Failure>)>,
}

async fn follow(
    subscription: Subscription,
    gone: Vec<String>,
    options: MqttOptions,
    mut stopped: watch::Receiver<bool>,
) {
    let (client, events) = AsyncClient::new(options, usize::from(WINDOW) * 2);
    let (news_in, mut news) = mpsc::channel(usize::from(WINDOW));
    let listening = tokio::spawn(listen(events, subscription.client_id.clone(), news_in));
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut way = Way {
        subscription,
        gone,
        client,
        waiting: VecDeque::new(),
        next: 0,
        tell,
    };
    let mut deadline: Option<Instant> = None;
    loop {
        let again = way.go_on();
        if deadline.is_some() && way.waiting.is_empty() {
            break;
        }
        let wake = match deadline {
            Some(deadline) if again => deadline.min(Instant::now() + AGAIN),
            Some(deadline) => deadline,
            None => Instant::now() + AGAIN,
        };
        tokio::select! {
            heard = news.recv(), if way.waiting.len() < FULL => match heard {
                Some(News::Connected(known)) => way.subscribe(known),
                // What comes while we stop comes again to whoever takes up the session.
                Some(News::Message(message)) if deadline.is_none() => way.push(message),
                Some(News::Message(_)) => {}
                Some(News::Lost(heard)) => {
                    way.forget();
                    let _ = heard.send(());
                }
                None => break,
            },
            Some((number, went)) = told.recv() => way.hear(number, went),
            () = tokio::time::sleep_until(wake), if again || deadline.is_some() => {
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    break;
                }
            }
            changed = stopped.changed(), if deadline.is_none() => {
                if changed.is_err() || *stopped.borrow() {
                    deadline = Some(Instant::now() + LAST);
                }
            }
        }
    }
    let _ = way.client.try_disconnect();
    // The word needs a moment to be written.
    let _ = tokio::time::timeout(Duration::from_millis(200), async {
        while let Some(heard) = news.recv().await {
            if matches!(heard, News::Lost(_)) {
                return;
            }
        }
    })
    .await;
    listening.abort();
}

impl Way {
    /// Subscribes; in a session that the broker knows, this changes nothing but what is new.
    fn subscribe(&self, known: bool) {
        let filters = self.subscription.topics.iter().map(|topic| Filter {
            retain_forward_rule: RetainForwardRule::OnNewSubscribe,
            ..Filter::new(topic, QoS::AtLeastOnce)
        });
        let mut went = self.client.try_subscribe_many(filters).is_ok();
        for topic in self.gone.iter().filter(|_| known) {
            went &= self.client.try_unsubscribe(topic).is_ok();
        }
        if !went {
            let client_id = &self.subscription.client_id;
            tracing::error!(client_id, "its topics are too many at once, or no filters");
        }
    }

    fn push(&mut self, message: Box<Publish>) {
        self.waiting.push_back(Waiting {
            number: self.next,
            message,
            stage: Stage::New,
        });
        self.next += 1;
    }

    /// What the broker is to send again, now that its connection is gone, is forgotten. What it
    /// will not send again goes on.
    fn forget(&mut self) {
        self.waiting
            .retain(|own| own.message.qos == QoS::AtMostOnce);
    }

    fn hear(&mut self, number: u64, went: Result<(), Failure>) {
        let own = self.waiting.iter_mut().find(|own| own.number == number);
        let Some(own) = own else { return };
        own.stage = match went {
            Ok(()) => Stage::Safe,
            Err(failure) => after(failure, &self.subscription, &own.message),
        };
    }

    /// Hands over what is new, acknowledges what may be; whether to try again soon.
    fn go_on(&mut self) -> bool {
        let mut again = false;
        for own in self
            .waiting
            .iter_mut()
            .filter(|own| own.stage == Stage::New)
        {
            match hand_over(&self.subscription, own, &self.tell) {
                Ok(()) => own.stage = Stage::Sent,
                Err(failure) => {
                    own.stage = after(failure, &self.subscription, &own.message);
                    if own.stage == Stage::New {
                        again = true;
                        break;
                    }
                }
            }
        }
        while let Some(first) = self.waiting.front() {
            if first.stage != Stage::Safe {
                break;
            }
            if first.message.qos != QoS::AtMostOnce && self.client.try_ack(&first.message).is_err()
            {
                again = true;
                break;
            }
            self.waiting.pop_front();
        }
        again
    }
}

/// What becomes of a message that was not taken: it is tried again, unless that is no use.
fn after(failure: Failure, subscription: &Subscription, message: &Publish) -> Stage {
    match failure {
        Failure::Full | Failure::TimedOut | Failure::Failed => Stage::New,
        Failure::NoTopic | Failure::TooManyTopics | Failure::TooLarge | Failure::Loop => {
            let topic = String::from_utf8_lossy(&message.topic).into_owned();
            tracing::error!(
                client_id = subscription.client_id, topic, %failure,
                "a message is left out: Kafka will never take it"
            );
            Stage::Safe
        }
    }
}

fn hand_over(
    subscription: &Subscription,
    own: &Waiting,
    tell: &mpsc::UnboundedSender<(u64, Result<(), Failure>)>,
) -> Result<(), Failure> {
    let message = &own.message;
    let topic = std::str::from_utf8(&message.topic).map_err(|_| Failure::NoTopic)?;
    let properties = properties(message);
    let outgoing = OutgoingMessage {
        topic,
        client_id: &subscription.client_id,
        username: "",
        identity: "",
        qos: message.qos as u8,
        retain: message.retain,
        properties: Properties::of(&properties),
        payload: &message.payload,
    };
    let (tell, number) = (tell.clone(), own.number);
    let confirm: Confirm = Box::new(move |went| {
        // A subscription that has ended does not wait any more.
        let _ = tell.send((number, went.map(drop)));
    });
    subscription.sink.write_message(&outgoing, Some(confirm))
}

/// A message's properties as they were on the wire, as far as they mean something to others.
fn properties(message: &Publish) -> Writer {
    let mut writer = Writer::default();
    let Some(own) = &message.properties else {
        return writer;
    };
    if let Some(text) = &own.content_type {
        writer.text(id::CONTENT_TYPE, text);
    }
    if let Some(text) = &own.response_topic {
        writer.text(id::RESPONSE_TOPIC, text);
    }
    if let Some(bytes) = &own.correlation_data {
        writer.binary(id::CORRELATION_DATA, bytes);
    }
    for (name, value) in &own.user_properties {
        writer.user(name, value);
    }
    writer
}
