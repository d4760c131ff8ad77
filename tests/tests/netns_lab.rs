//! The laboratory itself: hosts reach each other, peers hold calls together without any sip-lb.

use std::time::Instant;

use lb_tests::{
    lab::{Arms, Plan},
    net::FAMILIES,
};

#[test]
fn callers_reach_backends_through_the_edge_host_in_every_layout() {
    let mut seen = 0;
    for family in FAMILIES {
        for arms in [Arms::Two, Arms::One] {
            for (client_router, backend_router) in [(false, false), (true, true)] {
                let start = Instant::now();
                let plan = Plan { family, arms, client_router, backend_router, ..Plan::default() };
                let site = plan.build().unwrap();
                let took = start.elapsed();
                println!("{plan:?}: {took:?}");
                for n in 0..2 {
                    let address = site.backend_address(n).ip().to_string();
                    site.callers[0].run("ping", &["-c1", "-W2", &address]).unwrap();
                }
                site.callers[0]
                    .run("ping", &["-c1", "-W2", &site.vip(0).ip().to_string()])
                    .unwrap();
                let caller = site.caller_address(0).ip().to_string();
                site.backends[1].run("ping", &["-c1", "-W2", &caller]).unwrap();
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 8);
}
