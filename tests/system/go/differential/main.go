// differential runs random programs of calls against a real etcd and against Stokehold and compares what they answer, field by field
// (differences.go has what is not compared, and why). A program that finds a difference is made smaller and shown.
//
//	differential [OPTIONS] ETCD STOKEHOLD[,STOKEHOLD…]
//
// ETCD is an http:// address; STOKEHOLD one or more endpoints (http:// or unix://) of one tenant, over which clients are spread.
//
//	-seed N        the first program's seed; the next has N+1. A failing program tells its own.
//	-programs N    how many
//	-seconds N     how long (at least one program); whichever is over first
//	-fresh         both sides are new: the first program begins with them as they are
//	-concurrent N  after each N programs, one in which many clients call at once (0: never)
//	-twin ENDPOINT another tenant, new as the first is: hashes must be equal on both
//	-restarts      Stokehold is restarted in the middle of some programs, by whoever reads stdout (restart.go)
//	-replay FILE   one program from a file, as a failing run leaves it
//	-save FILE     where a failing program is left
//	-shrink N      seconds that making a failing program smaller may take
//	-fault NAME    a proof: what Stokehold answers is changed on the way (fault.go); exit 0 if that is found and made small
//	-print         shows the programs
//	-count         shows how often each call was answered how
//
// Exit: 0 if nothing was found; 1 with what was found on stderr.
package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"
)

var (
	seed       = flag.Uint64("seed", 1, "")
	programs   = flag.Int("programs", 1<<30, "")
	seconds    = flag.Int("seconds", 0, "")
	fresh      = flag.Bool("fresh", false, "")
	concurrent = flag.Int("concurrent", 0, "")
	twin       = flag.String("twin", "", "")
	restarts   = flag.Bool("restarts", false, "")
	replay     = flag.String("replay", "", "")
	save       = flag.String("save", "", "")
	shrinkFor  = flag.Int("shrink", 60, "")
	faultName  = flag.String("fault", "", "")
	printAll   = flag.Bool("print", false, "")
	countAll   = flag.Bool("count", false, "")
)

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func findFault() *fault {
	for i := range faults {
		if faults[i].name == *faultName {
			return &faults[i]
		}
	}
	fail("no fault is named %q", *faultName)
	return nil
}

// report makes a failing program smaller and shows it.
func report(p *program, found *difference, sides []*side) (*program, *difference) {
	if *printAll {
		fmt.Fprintln(os.Stderr, found)
	}
	small, smallest, attempts, err := shrink(p, found, sides, time.Duration(*shrinkFor)*time.Second)
	if err != nil {
		fail("%v", err)
	}
	again := fmt.Sprintf("-seed %d -programs 1", p.seed)
	if *fresh && p.seed == *seed {
		again += " -fresh"
	}
	fmt.Fprintf(os.Stderr, "program %d (%s) finds a difference", p.seed, again)
	if attempts == 0 {
		fmt.Fprint(os.Stderr, "; it did not when it was run again")
	} else {
		fmt.Fprintf(os.Stderr, "; of its %d steps these are left after %d attempts", len(p.steps), attempts)
	}
	fmt.Fprintf(os.Stderr, ":\n%s\n%s", small, smallest)
	if *save != "" {
		if err := small.save(*save); err != nil {
			fail("%v", err)
		}
		fmt.Fprintf(os.Stderr, "It is in %s (-replay).\n", *save)
	}
	return small, smallest
}

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: differential [OPTIONS] ETCD STOKEHOLD[,STOKEHOLD…]; main.go says more")
	}
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	sides := []*side{newSide("etcd", flag.Arg(0), true), newSide("stokehold", flag.Arg(1), false)}
	if *twin != "" {
		sides = append(sides, newSide("twin", *twin, false))
	}
	if *faultName != "" {
		sides[1].fault = findFault()
	}
	if *replay != "" {
		p, err := loadProgram(*replay)
		if err != nil {
			fail("%v", err)
		}
		if err := reset(sides, *fresh); err != nil {
			fail("%v", err)
		}
		v := run(p, sides)
		if v.void {
			fail("it took too long for its leases: nothing is known")
		}
		if v.difference != nil {
			fail("%s\n%s", p, v.difference)
		}
		return
	}

	begun, done, steps, void, races := time.Now(), 0, 0, 0, 0
	for ; done < *programs && (done == 0 || *seconds == 0 || time.Since(begun) < time.Duration(*seconds)*time.Second); done++ {
		p := generate(*seed + uint64(done))
		if *restarts {
			p = withRestarts(p)
		}
		if *printAll {
			fmt.Printf("program %d:\n%s", p.seed, p)
		}
		if err := reset(sides, *fresh && done == 0); err != nil {
			fail("%v", err)
		}
		v := run(p, sides)
		if v.void {
			void++
		}
		steps += len(p.steps)
		if v.difference != nil {
			small, _ := report(p, v.difference, sides)
			if f := sides[1].fault; f != nil && len(small.steps) <= f.most {
				fmt.Printf("%s: found by program %d and brought down to %d steps\n", f.name, done, len(small.steps))
				return
			}
			os.Exit(1)
		}
		if *concurrent > 0 && (done+1)%*concurrent == 0 {
			if err := reset(sides, false); err != nil {
				fail("%v", err)
			}
			if err := race(p.seed, sides); err != nil {
				fail("program %d, many clients at once: %v", p.seed, err)
			}
			races++
		}
	}
	if sides[1].fault != nil {
		fail("%s was not found by %d programs", *faultName, done)
	}
	if *countAll {
		for _, kind := range slices.Sorted(maps.Keys(tally)) {
			fmt.Printf("%7d  %s\n", tally[kind], kind)
		}
	}
	fmt.Printf("%d programs of %d steps alike (%d void), %d times many clients at once, seeds from %d, %.0f s\n", done, steps, void, races, *seed, time.Since(begun).Seconds())
}
