// The screens: where each is, who sees it, and the file that is loaded when it is opened.
import {
  IconArrowsExchange,
  IconBuilding,
  IconFileCode,
  IconGauge,
  IconHistory,
  IconKey,
  IconListSearch,
  IconShieldCheck,
  IconUsers,
} from "@tabler/icons-react";
import { type ComponentType, lazy } from "react";

export interface Screen {
  /** wouter's pattern, of the fragment. */
  path: string;
  component: ComponentType;
}

export interface Section {
  label: string;
  to: string;
  icon: ComponentType<{ size?: number | string }>;
  /** Actions of the admin API, one of which the person needs on the platform or in one of their tenants. */
  needs: string[];
}

/** What the navigation and the command palette offer. */
export const sections: Section[] = [
  { label: "Overview", to: "/", icon: IconGauge, needs: [] },
  { label: "Tenants", to: "/tenants", icon: IconBuilding, needs: ["tenant:list", "tenant:read"] },
  { label: "Users", to: "/users", icon: IconUsers, needs: ["user:list"] },
  { label: "Access", to: "/access", icon: IconListSearch, needs: ["access:list", "access:search"] },
  { label: "Clients", to: "/clients", icon: IconKey, needs: ["client:list"] },
  { label: "Playground", to: "/policy/playground", icon: IconFileCode, needs: ["policy:evaluate"] },
  { label: "Policy", to: "/policy", icon: IconShieldCheck, needs: ["policy:read"] },
  { label: "Decisions", to: "/decisions", icon: IconArrowsExchange, needs: ["decision:list"] },
  { label: "Audit", to: "/audit", icon: IconHistory, needs: ["audit:read"] },
];

/** In the order in which they are matched. */
export const screens: Screen[] = [
  { path: "/", component: lazy(() => import("../screens/overview/Overview")) },
  { path: "/tenants", component: lazy(() => import("../screens/tenants/Tenants")) },
  { path: "/tenants/:tenant/*?", component: lazy(() => import("../screens/tenants/Tenant")) },
  { path: "/roles/*?", component: lazy(() => import("../screens/tenants/GlobalRoles")) },
  { path: "/users", component: lazy(() => import("../screens/users/Users")) },
  { path: "/users/:user/*?", component: lazy(() => import("../screens/users/User")) },
  { path: "/access/*?", component: lazy(() => import("../screens/access/Access")) },
  { path: "/clients", component: lazy(() => import("../screens/clients/Clients")) },
  { path: "/clients/:client/*?", component: lazy(() => import("../screens/clients/Client")) },
  { path: "/policy/playground", component: lazy(() => import("../screens/playground/Playground")) },
  { path: "/policy/*?", component: lazy(() => import("../screens/policy/Policy")) },
  { path: "/decisions", component: lazy(() => import("../screens/decisions/Decisions")) },
  { path: "/decisions/:decision", component: lazy(() => import("../screens/decisions/Decision")) },
  { path: "/audit", component: lazy(() => import("../screens/audit/Audit")) },
];
