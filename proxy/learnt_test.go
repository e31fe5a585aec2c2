package proxy

import (
	"strings"
	"testing"
)

// What is offered follows what members show, and is not worked out anew for every session.
func TestCommonFollowsTheMembers(t *testing.T) {
	var common Common[string]
	worked := 0
	join := func(lists [][]string) string {
		worked++
		var b strings.Builder
		for _, list := range lists {
			b.WriteString(strings.Join(list, " "))
		}
		return b.String()
	}
	idle, sort := [][]string{{"IDLE"}}, [][]string{{"SORT"}}
	for i, lists := range [][][]string{nil, idle, sort, nil} {
		want := []string{"", "IDLE", "SORT", ""}[i]
		for range 3 {
			if got := common.Of(lists, join); got != want {
				t.Errorf("%q: got %q", lists, got)
			}
		}
		if worked != i+1 {
			t.Errorf("worked %d times for %d different lists", worked, i+1)
		}
	}
	if n := testing.AllocsPerRun(100, func() { common.Of(nil, join) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
