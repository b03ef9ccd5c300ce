package main

// The part of Grafana's dashboard model that we use (schema version 39, Grafana 11 and newer:
// https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/).

type dashboard struct {
	UID           string      `json:"uid"`
	Title         string      `json:"title"`
	Description   string      `json:"description"`
	Tags          []string    `json:"tags"`
	SchemaVersion int         `json:"schemaVersion"`
	Editable      bool        `json:"editable"`
	GraphTooltip  int         `json:"graphTooltip"` // 1: one crosshair for all panels
	Refresh       string      `json:"refresh"`
	Time          timeRange   `json:"time"`
	Templating    templating  `json:"templating"`
	Annotations   annotations `json:"annotations"`
	Panels        []panel     `json:"panels"`
}

type timeRange struct {
	From string `json:"from"`
	To   string `json:"to"`
}

type templating struct {
	List []variable `json:"list"`
}

type variable struct {
	Name       string      `json:"name"`
	Label      string      `json:"label"`
	Type       string      `json:"type"`
	Query      string      `json:"query"`
	Datasource *datasource `json:"datasource,omitempty"`
	Refresh    int         `json:"refresh"` // 2: at each change of the time range
	Multi      bool        `json:"multi"`
	IncludeAll bool        `json:"includeAll"`
	AllValue   string      `json:"allValue,omitempty"`
	Sort       int         `json:"sort"`
}

type annotations struct {
	List []annotation `json:"list"`
}

type annotation struct {
	Name        string     `json:"name"`
	Datasource  datasource `json:"datasource"`
	Expr        string     `json:"expr"`
	Enable      bool       `json:"enable"`
	IconColor   string     `json:"iconColor"`
	TitleFormat string     `json:"titleFormat"`
	Step        string     `json:"step"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

var prometheus = datasource{Type: "prometheus", UID: "${datasource}"}

type panel struct {
	ID          int           `json:"id"`
	Type        string        `json:"type"`
	Title       string        `json:"title"`
	Description string        `json:"description,omitempty"`
	GridPos     grid          `json:"gridPos"`
	Datasource  *datasource   `json:"datasource,omitempty"`
	Collapsed   *bool         `json:"collapsed,omitempty"` // of a row
	Panels      []panel       `json:"panels,omitempty"`
	Targets     []target      `json:"targets,omitempty"`
	FieldConfig *fieldConfig  `json:"fieldConfig,omitempty"`
	Options     *panelOptions `json:"options,omitempty"`
}

type grid struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

type target struct {
	RefID        string     `json:"refId"`
	Datasource   datasource `json:"datasource"`
	Expr         string     `json:"expr"`
	LegendFormat string     `json:"legendFormat"`
	Range        bool       `json:"range"`
	Instant      bool       `json:"instant"`
	Exemplar     bool       `json:"exemplar,omitempty"`
}

type fieldConfig struct {
	Defaults  fieldDefaults `json:"defaults"`
	Overrides []struct{}    `json:"overrides"`
}

type fieldDefaults struct {
	Unit       string      `json:"unit"`
	Min        *float64    `json:"min,omitempty"`
	Custom     *custom     `json:"custom,omitempty"`
	Thresholds *thresholds `json:"thresholds,omitempty"`
}

type custom struct {
	FillOpacity     int             `json:"fillOpacity"`
	ShowPoints      string          `json:"showPoints"`
	Stacking        stacking        `json:"stacking"`
	ThresholdsStyle thresholdsStyle `json:"thresholdsStyle"`
}

type stacking struct {
	Mode string `json:"mode"`
}

type thresholdsStyle struct {
	Mode string `json:"mode"`
}

type thresholds struct {
	Mode  string `json:"mode"`
	Steps []step `json:"steps"`
}

type step struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"` // null: from the beginning
}

type panelOptions struct {
	Legend        *legend  `json:"legend,omitempty"`
	Tooltip       *tooltip `json:"tooltip,omitempty"`
	ReduceOptions *reduce  `json:"reduceOptions,omitempty"`
	ColorMode     string   `json:"colorMode,omitempty"`
	TextMode      string   `json:"textMode,omitempty"`
}

type legend struct {
	DisplayMode string   `json:"displayMode"`
	Placement   string   `json:"placement"`
	Calcs       []string `json:"calcs"`
}

type tooltip struct {
	Mode string `json:"mode"`
	Sort string `json:"sort"`
}

type reduce struct {
	Calcs  []string `json:"calcs"`
	Fields string   `json:"fields"`
	Values bool     `json:"values"`
}
