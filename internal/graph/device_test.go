package graph

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestReadDevice reads what kind of device it is: what is odd about one member
// says nothing of the others.
func TestReadDevice(t *testing.T) {
	t.Parallel()
	sync := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for members, want := range map[string]Device{
		`"operatingSystem":"Android","managedDeviceOwnerType":"company","deviceEnrollmentType":"androidEnterpriseFullyManaged",` +
			`"managementState":"managed","lastSyncDateTime":"2026-11-22T10:00:00Z"`: {OS: "Android", Owner: "company",
			Enrollment: "androidEnterpriseFullyManaged", Management: "managed", LastSync: sync},
		`"operatingSystem":" i\r\nOS\u200b","managedDeviceOwnerType":null`: {OS: "i OS"},
		`"operatingSystem":"` + strings.Repeat("é", 100) + `"`:             {OS: strings.Repeat("é", 32)},
		`"operatingSystem":7,"managementState":"wipePending"`:              {Management: "wipePending"},
		`"managementState":["` + testPasscode + `"],"managedDeviceOwnerType":"personal","deviceEnrollmentType":` + testPasscode + `,` +
			`"lastSyncDateTime":{"passcode":"` + testPasscode + `"}`: {Owner: "personal"},
		`"lastSyncDateTime":"0001-01-01T00:00:00Z","deviceEnrollmentType":"appleUserEnrollment"`:               {Enrollment: "appleUserEnrollment"},
		`"lastSyncDateTime":"9999-12-31T23:59:59.9999999Z"`:                                                    {},
		`"lastSyncDateTime":"yesterday","deviceName":"` + testPasscode + `","passcode":"` + testPasscode + `"`: {},
	} {
		got, err := readDevice([]byte(`{`+members+`,"id":"`+testDevice+`"}`), testDevice, nil)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", members, got, err)
		}
	}
}

// TestDevice asks for the members that are read, and for no other.
func TestDevice(t *testing.T) {
	t.Parallel()
	status, body := 200, `{"id":"`+testDevice+`","operatingSystem":"iOS","deviceActionResults":[{"actionName":"resetPasscode","passcode":"`+testPasscode+`"},`+
		`{"@odata.type":"resetPasscodeActionResult","actionName":"new"}]}`
	var told []string
	s, _ := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		const want = "$select=id,operatingSystem,managedDeviceOwnerType,deviceEnrollmentType,managementState,lastSyncDateTime,deviceActionResults"
		if r.Method != http.MethodGet || r.URL.Path != "/v1.0/deviceManagement/managedDevices/"+testDevice || r.URL.RawQuery != want {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.Header().Set("Request-Id", "there")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
	c, err := New(Config{Endpoint: s.URL, UserAgent: "test", RootCAs: roots(s), UnknownAction: func(name string) { told = append(told, name) }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.Device(t.Context(), testDevice, within(longEnough))
	if err != nil || got.OS != "iOS" || len(got.List) != 2 || got.RequestID != "there" || got.Status != 200 || strings.Contains(fmt.Sprintf("%+v", got), testPasscode) {
		t.Errorf("%+v, %v", got, err)
	}
	if !slices.Equal(told, []string{"new"}) {
		t.Errorf("%q", told)
	}
	status, body = 404, graphError("ResourceNotFound", testPasscode)
	got, err = c.Device(t.Context(), testDevice, within(longEnough))
	if e := wantKind(t, err, Refused); e.Status != 404 || e.Code != "ResourceNotFound" || e.Message != "" || !reflect.DeepEqual(got, Device{}) {
		t.Errorf("%+v, %#v", got, e)
	}
	status, body = 200, `{"operatingSystem":"`+testPasscode+`"}`
	got, err = c.Device(t.Context(), testDevice, within(longEnough))
	wantKind(t, err, Unknown)
	noTrace(t, err, testPasscode)
	if !reflect.DeepEqual(got, Device{}) {
		t.Errorf("%+v beside an error", got)
	}
}

// secretMember reports whether a name of a field, or of its tag, is that of
// what nobody may see of a device.
func secretMember(name string) bool {
	name = strings.ToLower(name)
	for _, s := range []string{"passcode", "unlockpin", "devicelocation", "devicename"} {
		if name == s {
			return true
		}
	}
	return false
}

// TestNoRoomForSecrets checks that no struct of the program has a field for
// what Graph's answers hold and nobody may see, so that no decoder can keep it.
func TestNoRoomForSecrets(t *testing.T) {
	t.Parallel()
	for _, typ := range []reflect.Type{reflect.TypeFor[Device](), reflect.TypeFor[Actions](), reflect.TypeFor[Action](), reflect.TypeFor[OwnFinding](), reflect.TypeFor[Error]()} {
		for _, f := range reflect.VisibleFields(typ) {
			switch f.Type.Kind() {
			case reflect.Map, reflect.Interface:
				if f.Type != reflect.TypeFor[error]() {
					t.Errorf("%s.%s takes anything", typ, f.Name)
				}
			}
		}
	}
	seen := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "graphsim" || d.Name() == "tools" || d.Name() == "bin"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		seen++
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.StructType); ok {
				for _, name := range names(s) {
					if secretMember(name) {
						t.Errorf("%s has a field %s", path, name)
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil || seen < 50 {
		t.Errorf("%d files, %v", seen, err)
	}
}

// names are those of a struct's fields, and of their tags.
func names(s *ast.StructType) []string {
	var out []string
	for _, f := range s.Fields.List {
		for _, n := range f.Names {
			out = append(out, n.Name)
		}
		if f.Tag != nil {
			tag := reflect.StructTag(strings.Trim(f.Tag.Value, "`"))
			name, _, _ := strings.Cut(tag.Get("json"), ",")
			out = append(out, name)
		}
	}
	return out
}

// TestSecretMember checks the check.
func TestSecretMember(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\ntype t struct { A int `json:\"unlockPin,omitempty\"`; Passcode, b string; int }", 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.StructType); ok {
			got = slices.DeleteFunc(names(s), func(name string) bool { return !secretMember(name) })
		}
		return true
	})
	if !slices.Equal(got, []string{"unlockPin", "Passcode"}) {
		t.Errorf("%q", got)
	}
}
