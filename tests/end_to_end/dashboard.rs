//! The dashboard in a real browser: what it shows, of whom, at every width, by keyboard.

use std::path::Path;
use std::thread;
use std::time::Duration;

use finback_simulations::speech::Speech;

use crate::support::browser::Browser;
use crate::support::endpoint::{Deed, Endpoint};
use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client};
use crate::support::{free_port, web};

/// What would change the title if it were taken for markup.
const HOSTILE: &str = "<img src=x onerror=\"document.title='owned'\">";

/// The trace of the slow call.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A proxy with services, one endpoint that is gone, names that would be markup, and some traffic.
struct Stage {
    finback: Finback,
    admin: u16,
    _bolt: Endpoint,
}

impl Stage {
    fn set() -> Self {
        let (back, gone, admin) = (web::serve(), free_port(), free_port());
        let bolt = Endpoint::start(Speech::Bolt, Deed::Answer);
        let config = format!(
            r#"
workers: 1
tracing: {{ endpoint: "http://127.0.0.1:{gone}" }}
registries: {{ local: {{ memory: [ {{ service: com.acme.Pay, version: "1.0", endpoints: [ "{}" ] }} ] }} }}
listeners:
  - {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web }}
  - {{ name: rpc, address: "127.0.0.1:0", protocol: bolt, routes: rpc }}
routes:
  web:
    - {{ name: shop, match: {{ host: shop.test }}, to: {{ cluster: shop }} }}
    - {{ name: "{}", match: {{ host: hostile.test }}, to: {{ cluster: hostile }} }}
  rpc: [ {{ name: payments, match: {{ service: {{ prefix: com.acme }} }}, to: {{ registry: local }} }} ]
clusters:
  shop: {{ endpoints: [ "{back}", "127.0.0.1:{gone}" ] }}
  hostile:
    endpoints: [ {{ address: "{back}", labels: {{ lane: "{}" }} }} ]
"#,
            bolt.address,
            HOSTILE.replace('"', "\\\""),
            HOSTILE.replace('"', "\\\""),
        );
        let admin_section = format!(
            r#"{{ address: "127.0.0.1:{admin}", trace_url: "http://jaeger.test/trace/{{trace_id}}" }}"#
        );
        let stage = Self {
            finback: Finback::start_with_admin(&admin_section, &config, &[]),
            admin,
            _bolt: bolt,
        };
        stage.call();
        stage
    }

    /// A few calls of each kind.
    fn call(&self) {
        let (front, rpc) = (self.finback.local("web"), self.finback.local("rpc"));
        for _ in 0..20 {
            web::get(&front, "shop.test", "/");
        }
        web::get(&front, "shop.test", "/fail");
        let context = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n");
        web::get_with(&front, "shop.test", "/slow/300", &context);
        web::get(&front, "hostile.test", "/");
        let mut client = Client::connect(&rpc, Speech::Bolt);
        for _ in 0..20 {
            client.call(&Call::new("com.acme.Pay", "pay"));
        }
        client.call(&Call::new(HOSTILE, HOSTILE));
    }

    fn open(&self, width: u32, dark: bool) -> Browser {
        let mut page = Browser::open(&format!("http://127.0.0.1:{}/", self.admin), width, dark);
        page.until("Number(document.body.dataset.rounds) >= 3");
        page
    }
}

/// Keeps a picture where `DASHBOARD_PICTURES` names a folder.
fn picture(page: &mut Browser, name: &str) {
    if let Ok(folder) = std::env::var("DASHBOARD_PICTURES") {
        page.picture(&Path::new(&folder).join(name));
    }
}

const TEXT: &str = "document.querySelector";

#[test]
fn it_shows_what_is_called_and_what_is_wrong() {
    let stage = Stage::set();
    let mut page = stage.open(1440, true);
    let rest = thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..4 {
                stage.call();
                thread::sleep(Duration::from_millis(700));
            }
        });
        page.until(&format!("/refused/.test({TEXT}('#problems').innerText)"));
        page.until(&format!(
            "/[1-9]/.test({TEXT}('#tiles .tile dd').innerText)"
        ));
        page.eval(&format!("{TEXT}('main').innerText"))
            .as_str()
            .unwrap()
            .to_owned()
    });
    for words in [
        "shop.test",
        "com.acme.Pay",
        "ejected",
        "no connection can be made",
        "payments",
        "to registry local",
        "web",
        "of shop",
        "failed (500)",
        "no_route",
    ] {
        assert!(rest.contains(words), "{words}: {rest}");
    }
    // A slow call leads to its trace, where traces are looked at.
    let link = format!(
        "document.querySelector('#exchanges a[href=\"http://jaeger.test/trace/{TRACE}\"]')"
    );
    page.until(&link);
    // What leads where is drawn between columns.
    assert!(
        page.eval("document.querySelectorAll('#topology svg path').length")
            .as_u64()
            > Some(3)
    );
    // Plots say what they show.
    let words = page.eval("document.querySelector('#services svg').getAttribute('aria-label')");
    assert!(
        words.as_str().unwrap().contains("calls per second"),
        "{words}"
    );
    picture(&mut page, "1440-dark.png");
    assert!(page.complaints.is_empty(), "{:?}", page.complaints);
}

#[test]
fn names_of_peers_are_text_whatever_they_contain() {
    let stage = Stage::set();
    let mut page = stage.open(1440, false);
    page.until(&format!(
        "{TEXT}('#exchanges').innerText.includes('<img src=x')"
    ));
    let text = page.eval("document.body.innerText").to_string();
    // As a route, as a label of an endpoint, and as a service that somebody asked for.
    assert!(text.matches("<img src=x").count() >= 3, "{text}");
    assert_eq!(page.eval("document.images.length"), 0);
    assert_ne!(page.eval("document.title"), "owned");
    // No request went to anybody else, and none was for markup of theirs.
    let asked =
        page.eval("performance.getEntriesByType('resource').map((own) => own.name).join(' ')");
    let asked = asked.as_str().unwrap();
    let own = format!("http://127.0.0.1:{}/", stage.admin);
    assert!(asked.split(' ').all(|url| url.starts_with(&own)), "{asked}");
    assert!(page.complaints.is_empty(), "{:?}", page.complaints);
}

#[test]
fn it_is_read_on_a_phone_and_on_a_wall() {
    let stage = Stage::set();
    for (width, dark, name) in [
        (390, false, "390-light.png"),
        (390, true, "390-dark.png"),
        (1920, false, "1920-light.png"),
        (2560, true, "2560-dark.png"),
    ] {
        let mut page = stage.open(width, dark);
        stage.call();
        page.until("Number(document.body.dataset.rounds) >= 5");
        // Nothing has to be moved sideways to be read.
        let wide = page.eval("document.documentElement.scrollWidth");
        assert!(wide.as_u64() <= Some(u64::from(width)), "{width}: {wide}");
        let moved = page.eval(
            "[...document.querySelectorAll('.scroll')].filter((own) => own.scrollWidth > own.clientWidth).length",
        );
        assert_eq!(moved, 0, "{width}: tables are cut off");
        let paper = page.eval("getComputedStyle(document.body).backgroundColor");
        let is_dark = paper == "rgb(17, 21, 28)";
        assert_eq!(is_dark, dark, "{paper}");
        picture(&mut page, name);
    }
}

#[test]
fn it_is_used_by_keyboard_and_heard() {
    let stage = Stage::set();
    let mut page = stage.open(1440, false);
    // The first stop leads past the navigation.
    page.press("Tab", 9);
    assert_eq!(
        page.eval("document.activeElement.textContent"),
        "Skip to services"
    );
    page.press("Enter", 13);
    page.until("location.hash === '#services'");
    page.press("Tab", 9);
    page.until("document.activeElement.matches('#services button')");
    let name = page.eval("document.activeElement.textContent");
    page.press("Enter", 13);
    page.until("document.querySelectorAll('#services tr.method').length > 0");
    // It stays where it is while numbers change around it.
    let rounds = page
        .eval("Number(document.body.dataset.rounds)")
        .as_u64()
        .unwrap();
    page.until(&format!(
        "Number(document.body.dataset.rounds) >= {}",
        rounds + 2
    ));
    assert_eq!(page.eval("document.activeElement.textContent"), name);
    assert_eq!(
        page.eval("document.activeElement.getAttribute('aria-expanded')"),
        "true"
    );
    page.press("Enter", 13);
    page.until("document.querySelectorAll('#services tr.method').length === 0");
    // Every section has a name, every table too, and every plot says what it shows.
    let nameless = "[...document.querySelectorAll('section, table, svg[role=img], [role=group]')]\
        .filter((own) => !own.getAttribute('aria-label') && !own.getAttribute('aria-labelledby')).length";
    assert_eq!(page.eval(nameless), 0);
    assert_eq!(page.eval("document.documentElement.lang"), "en");
}

#[test]
fn it_says_when_finback_is_gone() {
    let stage = Stage::set();
    let mut page = stage.open(800, false);
    assert_eq!(page.eval("document.getElementById('trouble').hidden"), true);
    stage.finback.process().signal("KILL");
    page.until("!document.getElementById('trouble').hidden");
    let text = page.eval("document.getElementById('trouble').textContent");
    assert!(text.as_str().unwrap().contains("cannot be asked"), "{text}");
}
