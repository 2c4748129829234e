// THREADS CALLS, as static_work.c.
use std::{env, thread};

mod work {
    pub struct State {
        pub memory: u64,
    }

    impl State {
        #[inline(never)]
        pub fn step(&mut self, x: u64) -> u64 {
            self.memory = (self.memory ^ x).wrapping_mul(0x9e3779b97f4a7c15);
            x.rotate_left(7).wrapping_add(self.memory)
        }
    }
}

fn main() {
    let words: Vec<u64> = env::args().skip(1).map(|word| word.parse().unwrap()).collect();
    let calls = words[1];
    let threads: Vec<_> = (1..=words[0])
        .map(|seed| {
            thread::spawn(move || {
                let mut state = work::State { memory: seed };
                let mut x = !seed;
                for _ in 0..calls {
                    x = state.step(x);
                }
                x ^ state.memory
            })
        })
        .collect();
    let sum = threads.into_iter().fold(0u64, |sum, thread| sum.wrapping_add(thread.join().unwrap()));
    println!("sum {sum}");
}
