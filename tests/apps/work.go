// THREADS CALLS, as static_work.c: goroutines that allocate, collect and grow their stacks.
package main

import (
	"fmt"
	"os"
	"strconv"
)

type state struct{ memory uint64 }

//go:noinline
func (s *state) step(x uint64) uint64 {
	s.memory = (s.memory ^ x) * 0x9e3779b97f4a7c15
	return (x<<7 | x>>57) + s.memory
}

//go:noinline
func deep(n int) uint64 {
	var pad [64]uint64
	pad[n&63] = uint64(n)
	if n == 0 {
		return pad[0]
	}
	return deep(n-1) + pad[n&63]
}

func work(seed uint64, calls int) uint64 {
	s := &state{seed}
	x := ^seed
	kept := [][]byte{}
	for i := 0; i < calls; i++ {
		x = s.step(x)
		if i%97 == 0 {
			if len(kept) > 50 {
				kept = nil
			}
			kept = append(kept, make([]byte, 4096))
			x += deep(i % 500)
		}
	}
	return x ^ s.memory
}

func main() {
	threads, _ := strconv.Atoi(os.Args[1])
	calls, _ := strconv.Atoi(os.Args[2])
	results := make(chan uint64)
	for i := 0; i < threads; i++ {
		go func(seed uint64) { results <- work(seed, calls) }(uint64(i + 1))
	}
	var sum uint64
	for i := 0; i < threads; i++ {
		sum += <-results
	}
	fmt.Println("sum", sum)
}
