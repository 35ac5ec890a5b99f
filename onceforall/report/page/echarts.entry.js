export { init } from "echarts/core";
import { use } from "echarts/core";
import { ScatterChart, LineChart, BarChart, CustomChart, ParallelChart } from "echarts/charts";
import { GridComponent, TooltipComponent, ParallelComponent, DataZoomInsideComponent, MarkLineComponent } from "echarts/components";
import { CanvasRenderer } from "echarts/renderers";
use([ScatterChart, LineChart, BarChart, CustomChart, ParallelChart, GridComponent, TooltipComponent, ParallelComponent, DataZoomInsideComponent, MarkLineComponent, CanvasRenderer]);
