//! What protocols keep per worker is found by its type alone.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use finback_core::driver::{Connection, ListenerSpec, Protocol, Served, Sniff, Worker};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Sender, channel};

use crate::toy::*;

#[derive(Default)]
struct Ones(Cell<u32>);

#[derive(Default)]
struct Tens(Cell<u32>);

/// Counts its connections twice, and tells both counts.
struct Counting(Sender<(u32, u32)>);

impl Protocol for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn sniff(&self, _: &[u8]) -> Sniff {
        Sniff::Match
    }

    fn serve(self: Arc<Self>, _: Connection, worker: Rc<Worker>) -> Served {
        let (ones, tens) = (worker.state::<Ones>(), worker.state::<Tens>());
        ones.0.set(ones.0.get() + 1);
        tens.0.set(tens.0.get() + 10);
        self.0.try_send((ones.0.get(), tens.0.get())).unwrap();
        Box::pin(async {})
    }
}

#[tokio::test]
async fn each_type_has_one_state_that_stays() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy(), retry(1)));
    let (told, mut counts) = channel(8);
    let bound = mess
        .workers
        .bind(ListenerSpec {
            pinned: None,
            stats: Arc::default(),
            tls: None,
            proxies: Arc::default(),
            reveal_endpoints: false,
            name: "counted".into(),
            address: "127.0.0.1:0".parse().unwrap(),
            protocols: vec![Arc::new(Counting(told))],
            routes: "main".into(),
            settings: "".into(),
        })
        .unwrap();
    let address = bound.address();
    mess.workers.listen(bound);
    for n in 1..=3 {
        let _client = TcpStream::connect(address).await.unwrap();
        assert_eq!(counts.recv().await, Some((n, n * 10)));
    }
}
