// Command lincheck judges a history of namespace operations a second time, by Porcupine.
//
// It reads the files that gfs/verification/history writes and prints one line for each: legal, illegal or
// unknown, and the file's name. What operations mean stands in gfs/verification/checkers/linearizability.py;
// this model of the tree is written apart from that one, so that a mistake has to be made twice.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

type record struct {
	Kind      string          `json:"kind"`
	Number    int             `json:"number"`
	Function  string          `json:"function"`
	Called    int64           `json:"called_ns"`
	Returned  int64           `json:"returned_ns"`
	Outcome   string          `json:"outcome"`
	Partition string          `json:"partition"`
	Result    json.RawMessage `json:"result"`
	Error     string          `json:"error"`
	Arguments struct {
		Path        string `json:"path"`
		Source      string `json:"source"`
		Destination string `json:"destination"`
		Target      string `json:"target"`
		Replace     bool   `json:"replace"`
		Parents     bool   `json:"parents"`
		Recursive   bool   `json:"recursive"`
	} `json:"arguments"`
}

// Refusals that tell of the tree; others tell only that nothing was done.
var telling = map[string]bool{"not_found": true, "already_exists": true, "is_a_directory": true,
	"not_a_directory": true, "directory_not_empty": true, "invalid_argument": true}

var looks = map[string]bool{"stat": true, "exists": true, "list": true}
var changes = map[string]bool{"create": true, "mkdir": true, "delete": true, "rename": true, "snapshot": true,
	"undelete": true, "purge": true}

func main() {
	verdict := 0
	for _, path := range os.Args[1:] {
		partitions, err := read(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		found := judge(partitions)
		fmt.Println(found, path)
		if found != "legal" {
			verdict = 1
		}
	}
	os.Exit(verdict)
}

func judge(partitions map[string][]record) string {
	names := make([]string, 0, len(partitions))
	for name := range partitions {
		names = append(names, name)
	}
	sort.Strings(names)
	found := "legal"
	for _, name := range names {
		model := newModel(name, partitions[name])
		switch porcupine.CheckOperationsTimeout(model.porcupine(), model.operations(), 10*time.Second) {
		case porcupine.Illegal:
			return "illegal"
		case porcupine.Unknown:
			found = "unknown"
		}
	}
	return found
}

func read(path string) (map[string][]record, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	partitions := map[string][]record{}
	lines := bufio.NewScanner(file)
	lines.Buffer(make([]byte, 1<<20), 1<<28)
	for lines.Scan() {
		var kind struct {
			Kind string `json:"kind"`
		}
		if err := json.Unmarshal(lines.Bytes(), &kind); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if kind.Kind != "op" {
			continue
		}
		var one record
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if one.Partition != "" && (looks[one.Function] || changes[one.Function]) {
			partitions[one.Partition] = append(partitions[one.Partition], one)
		}
	}
	return partitions, lines.Err()
}

// never is when an operation of unknown outcome returns: after everything else.
const never = int64(1) << 60

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}
