package main

import (
	"encoding/json"
	"hash/fnv"
	"sort"
	"strconv"
	"strings"

	"github.com/anishathalye/porcupine"
)

// A state is flat: every path below the partition's parent, with kind and identity, and the trash in order.
// Identities are numbers of operations, negative, until a look has told the inode.
type entry struct {
	directory bool
	identity  int64
}

type deleted struct {
	from  string
	by    int
	below map[string]entry // relative; "" is the thing itself
}

type state struct {
	entries map[string]entry
	trash   []deleted
	key     string
}

type model struct {
	own        string
	records    []record
	byNumber   map[int]record
	wasThere   bool
	givenBack  map[string]bool
	knownSince map[int64]int64
	prefix     int
}

func newModel(partition string, records []record) *model {
	names := split(partition)
	m := &model{own: names[len(names)-1], records: records, wasThere: true, byNumber: map[int]record{},
		givenBack: map[string]bool{}, knownSince: map[int64]int64{}, prefix: len(names) - 1}
	for _, r := range records {
		m.byNumber[r.Number] = r
		if (r.Function == "create" || r.Function == "mkdir") && r.Arguments.Path == partition {
			m.wasThere = false
		}
		if r.Function == "undelete" || r.Function == "purge" {
			m.givenBack[m.below(r.Arguments.Path)] = true
		}
		for _, inode := range inodes(r) {
			if since, known := m.knownSince[inode]; !known || r.Returned < since {
				m.knownSince[inode] = r.Returned
			}
		}
	}
	return m
}

func (m *model) below(path string) string {
	if path == "" {
		return ""
	}
	return strings.Join(split(path)[m.prefix:], "/")
}

type stated struct {
	Kind  string `json:"kind"`
	Inode int64  `json:"inode"`
}

func listed(raw json.RawMessage) (names []string, seen []stated) {
	var rows [][]any
	if json.Unmarshal(raw, &rows) != nil {
		return nil, nil
	}
	for _, row := range rows {
		one := stated{Kind: row[1].(string)}
		if len(row) > 2 {
			one.Inode = int64(row[2].(float64))
		}
		names, seen = append(names, row[0].(string)), append(seen, one)
	}
	return names, seen
}

func inodes(r record) (found []int64) {
	if r.Outcome != "ok" {
		return nil
	}
	switch r.Function {
	case "stat":
		var one stated
		if json.Unmarshal(r.Result, &one) == nil && one.Inode != 0 {
			found = append(found, one.Inode)
		}
	case "list":
		_, seen := listed(r.Result)
		for _, one := range seen {
			if one.Inode != 0 {
				found = append(found, one.Inode)
			}
		}
	}
	return found
}

func (m *model) operations() (calls []porcupine.Operation) {
	for _, r := range m.records {
		call := porcupine.Operation{Input: r, Call: r.Called, Return: r.Returned}
		switch {
		case r.Outcome == "fail" && !telling[r.Error], r.Outcome == "info" && looks[r.Function]:
			continue
		case r.Outcome == "info":
			call.Return = never
		}
		calls = append(calls, call)
	}
	return calls
}

func (m *model) porcupine() porcupine.Model {
	nondeterministic := porcupine.NondeterministicModel{
		Init: func() []interface{} {
			begin := state{entries: map[string]entry{}}
			if m.wasThere {
				begin.entries[m.own] = entry{directory: true}
			}
			return []interface{}{begin.sealed()}
		},
		Step: func(s, input, _ interface{}) (after []interface{}) {
			r := input.(record)
			before := s.(*state)
			states, refusal := m.apply(before, r)
			switch {
			case r.Outcome == "info":
				after = append(after, before) // it may never happen
				for _, one := range states {
					after = append(after, one.sealed())
				}
			case r.Outcome == "fail" && refusal == r.Error:
				after = append(after, before)
			case r.Outcome == "ok" && refusal == "":
				for _, one := range states {
					after = append(after, one.sealed())
				}
			}
			return after
		},
		Equal: func(a, b interface{}) bool { return a.(*state).key == b.(*state).key },
		Hash: func(s interface{}) uint64 {
			sum := fnv.New64a()
			sum.Write([]byte(s.(*state).key))
			return sum.Sum64()
		},
	}
	return nondeterministic.ToModel()
}

// sealed gives a state the text by which it is compared.
func (s state) sealed() *state {
	var text strings.Builder
	write := func(entries map[string]entry) {
		paths := make([]string, 0, len(entries))
		for path := range entries {
			paths = append(paths, path)
		}
		sort.Strings(paths)
		for _, path := range paths {
			one := entries[path]
			text.WriteString(path + ":" + strconv.FormatBool(one.directory) + strconv.FormatInt(one.identity, 10) + ";")
		}
	}
	write(s.entries)
	for _, one := range s.trash {
		text.WriteString("|" + one.from + "<" + strconv.Itoa(one.by) + ">")
		write(one.below)
	}
	s.key = text.String()
	return &s
}

func (s *state) copy() state {
	entries := make(map[string]entry, len(s.entries)+2)
	for path, one := range s.entries {
		entries[path] = one
	}
	return state{entries: entries, trash: append([]deleted(nil), s.trash...)}
}

func parent(path string) string {
	if at := strings.LastIndexByte(path, '/'); at >= 0 {
		return path[:at]
	}
	return ""
}

// find says what is at a path, or why nothing is: the first name on the way decides.
func (s *state) find(path string) (entry, string) {
	at := entry{directory: true}
	for end := 0; end < len(path); {
		if !at.directory {
			return at, "not_a_directory"
		}
		next := strings.IndexByte(path[end:], '/')
		stop := len(path)
		if next >= 0 {
			stop = end + next
		}
		one, there := s.entries[path[:stop]]
		if !there {
			return at, "not_found"
		}
		at, end = one, stop+1
	}
	return at, ""
}

func (s *state) directory(path string) string {
	one, refusal := s.find(path)
	if refusal == "" && !one.directory {
		return "not_a_directory"
	}
	return refusal
}

// entryOf is as find, of something that is to be changed: its parent has to be a directory.
func (s *state) entryOf(path string) (entry, string) {
	if refusal := s.directory(parent(path)); refusal != "" {
		return entry{}, refusal
	}
	one, there := s.entries[path]
	if !there {
		return one, "not_found"
	}
	return one, ""
}

// cut takes a path and all below it out.
func (s *state) cut(path string) map[string]entry {
	taken := map[string]entry{}
	for at, one := range s.entries {
		if at == path || strings.HasPrefix(at, path+"/") {
			taken[at[len(path):]] = one
			delete(s.entries, at)
		}
	}
	return taken
}

func (s *state) paste(path string, below map[string]entry) {
	for at, one := range below {
		s.entries[path+at] = one
	}
}

func (m *model) throwAway(s *state, path string, by int) {
	taken := s.cut(path)
	if m.givenBack[path] {
		s.trash = append(s.trash, deleted{path, by, taken})
	}
}

func (m *model) apply(before *state, r record) ([]state, string) {
	a := r.Arguments
	path, to := m.below(firstOf(a.Path, a.Source)), m.below(firstOf(a.Destination, a.Target))
	after := before.copy()
	switch r.Function {
	case "stat", "exists", "list":
		return m.look(&after, r, path)
	case "create":
		if refusal := after.directory(parent(path)); refusal != "" {
			return nil, refusal
		}
		if present, there := after.entries[path]; there {
			if present.directory {
				return nil, "is_a_directory"
			}
			if !a.Replace {
				return nil, "already_exists"
			}
			m.throwAway(&after, path, r.Number)
		}
		after.entries[path] = entry{false, -int64(r.Number)}
	case "mkdir":
		if refusal := after.makeDirectories(path, a.Parents, -int64(r.Number)); refusal != "" {
			return nil, refusal
		}
	case "delete":
		one, refusal := after.entryOf(path)
		if refusal != "" {
			return nil, refusal
		}
		if one.directory && !a.Recursive && after.hasEntries(path) {
			return nil, "directory_not_empty"
		}
		m.throwAway(&after, path, r.Number)
	case "rename":
		return m.rename(after, r, path, to)
	case "snapshot":
		return snapshot(after, r, path, to)
	case "undelete":
		return m.undelete(before, r, path, firstOf(to, path))
	case "purge":
		left := after.trash[:0:0]
		for _, one := range after.trash {
			if one.from != path {
				left = append(left, one)
			}
		}
		if len(left) == len(after.trash) {
			return nil, "not_found"
		}
		after.trash = left
	}
	return []state{after}, ""
}

func (s *state) hasEntries(path string) bool {
	for at := range s.entries {
		if strings.HasPrefix(at, path+"/") {
			return true
		}
	}
	return false
}

func (s *state) makeDirectories(path string, parents bool, identity int64) string {
	names := strings.Split(path, "/")
	for depth := range names {
		at := strings.Join(names[:depth+1], "/")
		one, there := s.entries[at]
		last := depth+1 == len(names)
		switch {
		case !there && !last && !parents:
			return "not_found"
		case !there:
			s.entries[at] = entry{true, identity}
		case !one.directory && last:
			return "already_exists"
		case !one.directory:
			return "not_a_directory"
		case last && !parents:
			return "already_exists"
		}
	}
	return ""
}

func (m *model) rename(after state, r record, path, to string) ([]state, string) {
	one, refusal := after.entryOf(path)
	if refusal != "" {
		return nil, refusal
	}
	if path == to {
		return []state{after}, ""
	}
	if strings.HasPrefix(to, path+"/") {
		if one.directory {
			return nil, "invalid_argument"
		}
		return nil, "not_a_directory"
	}
	if refusal := after.directory(parent(to)); refusal != "" {
		return nil, refusal
	}
	if present, there := after.entries[to]; there {
		if present.directory || !r.Arguments.Replace {
			return nil, "already_exists"
		}
		if one.directory {
			return nil, "not_a_directory"
		}
		m.throwAway(&after, to, r.Number)
	}
	after.paste(to, after.cut(path))
	return []state{after}, ""
}

func snapshot(after state, r record, path, to string) ([]state, string) {
	one, refusal := after.find(path)
	if refusal != "" {
		return nil, refusal
	}
	if path == to {
		return nil, "already_exists"
	}
	if strings.HasPrefix(to, path+"/") && one.directory {
		return nil, "invalid_argument"
	}
	if refusal := after.directory(parent(to)); refusal != "" {
		return nil, refusal
	}
	if _, there := after.entries[to]; there {
		return nil, "already_exists"
	}
	whole := after.cut(path)
	after.paste(path, whole)
	for at, one := range whole {
		after.entries[to+at] = entry{one.directory, -int64(r.Number)}
	}
	return []state{after}, ""
}

func (m *model) undelete(before *state, r record, path, to string) (after []state, refusal string) {
	for i, one := range before.trash {
		if one.from != path || m.passedOver(before.trash, one, r) {
			continue
		}
		s := before.copy()
		s.trash = append(append([]deleted(nil), before.trash[:i]...), before.trash[i+1:]...)
		if above := parent(to); above != "" {
			if wrong := s.makeDirectories(above, true, -int64(r.Number)); wrong != "" {
				return nil, "not_a_directory"
			}
		}
		if _, there := s.entries[to]; there {
			return nil, "already_exists"
		}
		s.paste(to, one.below)
		after = append(after, s)
	}
	if after == nil {
		return nil, "not_found"
	}
	return after, ""
}

// passedOver: something was deleted from there certainly after `one`, and before the call.
func (m *model) passedOver(trash []deleted, one deleted, call record) bool {
	earlier := m.byNumber[one.by]
	for _, other := range trash {
		later := m.byNumber[other.by]
		if other.from == one.from && other.by != one.by && earlier.Outcome == "ok" && later.Outcome == "ok" &&
			earlier.Returned < later.Called && later.Returned < call.Called {
			return true
		}
	}
	return false
}

func (m *model) look(s *state, r record, path string) ([]state, string) {
	one, refusal := s.find(path)
	if r.Function == "exists" {
		var seen bool
		if r.Outcome == "ok" && (json.Unmarshal(r.Result, &seen) != nil || seen != (refusal == "")) {
			return nil, ""
		}
		return []state{*s}, ""
	}
	if r.Function == "list" && refusal == "" && !one.directory {
		refusal = "not_a_directory"
	}
	if refusal != "" || r.Outcome != "ok" {
		return nil, refusal
	}
	if r.Function == "stat" {
		var seen stated
		if json.Unmarshal(r.Result, &seen) != nil || !m.shows(s, path, seen) {
			return nil, ""
		}
		return []state{*s}, ""
	}
	names, seen := listed(r.Result)
	count := 0
	for at := range s.entries {
		if parent(at) == path {
			count++
		}
	}
	if count != len(names) || !sort.StringsAreSorted(names) {
		return nil, ""
	}
	for i, name := range names {
		if _, there := s.entries[path+"/"+name]; !there || !m.shows(s, path+"/"+name, seen[i]) {
			return nil, ""
		}
	}
	return []state{*s}, ""
}

// shows: what was seen may be this entry; from then on it is known by that inode.
func (m *model) shows(s *state, path string, seen stated) bool {
	one := s.entries[path]
	if one.directory != (seen.Kind == "directory") {
		return false
	}
	if seen.Inode == 0 || one.identity == seen.Inode {
		return true
	}
	if one.identity > 0 {
		return false
	}
	if maker, known := m.byNumber[int(-one.identity)]; known && maker.Called > m.knownSince[seen.Inode] {
		return false
	}
	s.entries[path] = entry{one.directory, seen.Inode}
	return true
}
