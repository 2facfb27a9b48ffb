// Answers what cel-go, the reference implementation of CEL, says of matchers, line by line.
//
// `ready` comes first. The first line of the input is a JSON object: what is known of a request. Each line that follows is
// a JSON string, a matcher; its answer is `true`, `false`, `error` and why, or `rejected` and why.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
)

// What is known of a request.
type world struct {
	Host            string
	URL             string
	SourceIP        string
	SourcePort      int64
	DestinationPort int64
	Tags            []string
	ServiceAccount  string
	Certificate     map[string]any
	NotAfter        time.Time
	Connection      map[string]string
	Method          string
	Path            string
	Query           string
	Scheme          string
	Headers         map[string]string
	Time            time.Time
}

func (w *world) variables() map[string]any {
	w.Certificate["notAfter"] = w.NotAfter
	return map[string]any{
		"source.ip":          w.SourceIP,
		"source.port":        w.SourcePort,
		"source.mtls":        true,
		"source.certificate": w.Certificate,
		"destination.port":   w.DestinationPort,
		"connection":         w.Connection,
		"request.method":     w.Method,
		"request.host":       w.Headers["host"],
		"request.path":       w.Path,
		"request.query":      w.Query,
		"request.scheme":     w.Scheme,
		"request.headers":    w.Headers,
		"request.time":       w.Time,
	}
}

func text(name string, give func() (string, bool)) cel.EnvOption {
	binding := func(...ref.Val) ref.Val {
		if text, known := give(); known {
			return types.String(text)
		}
		return types.NewErr("%s is absent", name)
	}
	return cel.Function(name, cel.Overload(name, nil, cel.StringType, cel.FunctionBinding(binding)))
}

func test(name string, holds func(string) bool) cel.EnvOption {
	binding := func(argument ref.Val) ref.Val { return types.Bool(holds(string(argument.(types.String)))) }
	return cel.Function(name, cel.Overload(name, []*cel.Type{cel.StringType}, cel.BoolType, cel.UnaryBinding(binding)))
}

func inRange(ip, network ref.Val) ref.Val {
	address, err := netip.ParseAddr(string(ip.(types.String)))
	if err != nil {
		return types.WrapErr(err)
	}
	prefix, err := netip.ParsePrefix(string(network.(types.String)))
	if err != nil {
		return types.WrapErr(err)
	}
	return types.Bool(prefix.Contains(address.Unmap()))
}

func (w *world) environment() (*cel.Env, error) {
	return cel.NewEnv(
		ext.Strings(),
		cel.Variable("source.ip", cel.StringType),
		cel.Variable("source.port", cel.IntType),
		cel.Variable("source.mtls", cel.BoolType),
		cel.Variable("source.certificate", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("destination.port", cel.IntType),
		cel.Variable("connection", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("request.method", cel.StringType),
		cel.Variable("request.host", cel.StringType),
		cel.Variable("request.path", cel.StringType),
		cel.Variable("request.query", cel.StringType),
		cel.Variable("request.scheme", cel.StringType),
		cel.Variable("request.headers", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("request.time", cel.TimestampType),
		text("host", func() (string, bool) { return w.Host, true }),
		text("request.host", func() (string, bool) { return w.Headers["host"], true }),
		text("request.url", func() (string, bool) { return w.URL, true }),
		text("request.useragent", func() (string, bool) {
			value, known := w.Headers["user-agent"]
			return value, known
		}),
		test("source.matchTag", func(tag string) bool { return slices.Contains(w.Tags, tag) }),
		test("source.matchServiceAccount", func(account string) bool { return account == w.ServiceAccount }),
		cel.Function("inIpRange", cel.Overload("inIpRange", []*cel.Type{cel.StringType, cel.StringType},
			cel.BoolType, cel.BinaryBinding(inRange))),
	)
}

func answer(environment *cel.Env, variables map[string]any, expression string) string {
	checked, issues := environment.Compile(expression)
	if issues.Err() != nil {
		return "rejected " + issues.String()
	}
	program, err := environment.Program(checked)
	if err != nil {
		return "rejected " + err.Error()
	}
	value, _, err := program.Eval(variables)
	if err != nil {
		return "error " + err.Error()
	}
	return fmt.Sprint(value.Value())
}

func main() {
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 1<<20)
	fmt.Println("ready")
	var w world
	var environment *cel.Env
	for input.Scan() {
		if environment == nil {
			if err := json.Unmarshal(input.Bytes(), &w); err != nil {
				log.Fatal(err)
			}
			made, err := w.environment()
			if err != nil {
				log.Fatal(err)
			}
			environment = made
			continue
		}
		var expression string
		if err := json.Unmarshal(input.Bytes(), &expression); err != nil {
			log.Fatal(err)
		}
		fmt.Println(strings.ReplaceAll(answer(environment, w.variables(), expression), "\n", " "))
	}
}
